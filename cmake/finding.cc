// A finding of each sanitizer that it is built with: what the test `finding` expects to end this process.
#ifdef __SANITIZE_THREAD__
#include <thread>

int main() {
  int both = 0;
  std::thread other([&] { both += 1; });
  both += 2;
  other.join();
  return both == 3 ? 0 : 1;
}
#else
int main(int argc, char**) {
  int most = 2147483647;
  most += argc;
  return most == argc ? 1 : 0;
}
#endif
