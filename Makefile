# The two commands of the README, and what developers use. Each installs what is missing first.
BUILD := build/release
JOBS ?= $(shell nproc)

.PHONY: demo test bench build setup format asan tsan check-all fuzz soak clean

demo: build
	$(BUILD)/hawser demo --out demo

test: build
	cd $(BUILD) && ctest --output-on-failure -j $(JOBS)

bench: build
	$(BUILD)/hawser bench attention
	$(BUILD)/hawser bench matmul
	$(BUILD)/hawser bench train

setup:
	@scripts/setup.sh

build: setup
	@cmake --preset release > build-configure.log 2>&1 || (cat build-configure.log; exit 1)
	@rm -f build-configure.log
	cmake --build $(BUILD) -j $(JOBS)

asan: setup
	cmake --preset asan
	cmake --build build/asan -j $(JOBS)
	cd build/asan && ctest --output-on-failure

tsan: setup
	cmake --preset tsan
	cmake --build build/tsan -j $(JOBS)
	cd build/tsan && ctest --output-on-failure

# Every target for MINUTES, with clang: docs/RELIABILITY.md.
MINUTES ?= 1
fuzz: setup
	JOBS=$(JOBS) scripts/fuzz.sh $(MINUTES)

# Both, and the release build: all rooms.
check-all:
	$(MAKE) test
	$(MAKE) asan
	$(MAKE) tsan

HOURS ?= 1
SEED ?= 1
soak: build
	scripts/soak.py --hawser $(BUILD)/hawser --hours $(HOURS) --seed $(SEED)

format:
	git ls-files '*.h' '*.cc' | xargs clang-format -i

clean:
	rm -rf build
