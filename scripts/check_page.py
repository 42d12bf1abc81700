#!/usr/bin/env python3
"""Tries the page of `hawser serve` in headless Chromium: check_page.py HAWSER MODEL [FOLDER FOR PICTURES]

MODEL must have a chat template, or be `builtin`, which gets one. Wants chromium, chromium-driver and the package
selenium.
"""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from check_clients import start
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

HOSTILE = ("<img src=x onerror='window.taken=1'> **<script>window.taken=1</script>** `<b>`\n# <svg onload=window.taken=1>\n"
           "- [x](javascript:window.taken=1)\n```\n</code><script>window.taken=1</script>\n```\n1. <a href=javascript:1>q</a>")
# Markdown, and the tags and texts that it becomes.
MARKDOWN = (
    ("a `b *c*` *d* **e** f", "<p>a <code>b *c*</code> <em>d</em> <strong>e</strong> f</p>"),
    ("**`name`**: ``a ` b``", "<p><strong><code>name</code></strong>: <code>a ` b</code></p>"),
    ("a ` b `` c", "<p>a ` b `` c</p>"), ("2 * 3 * 4 ** 5", "<p>2 * 3 * 4 ** 5</p>"),
    ("<b>&amp;", "<p>&lt;b&gt;&amp;amp;</p>"), ("", ""),
    ("- a\n- *b*\n\n1. c", "<ul><li>a</li><li><em>b</em></li></ul><ol><li>c</li></ol>"),
    ("## h\n```py\n*x*\n", "<h3>h</h3><pre><code>*x*\n</code></pre>"))


class Page:
    def __init__(self, url, pictures):
        self.folder = tempfile.TemporaryDirectory()
        self.url, self.pictures = url, pictures
        options = webdriver.ChromeOptions()
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,800"):
            options.add_argument(argument)
        options.add_experimental_option("prefs", {"download.default_directory": self.folder.name})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        self.driver.set_script_timeout(20)
        self.driver.get(url)
        self.run("state")  # its script is complete

    def run(self, script, *arguments):
        return self.driver.execute_script("return " + script, *arguments)

    def wait(self, script, most=60):
        deadline = time.monotonic() + most
        while not self.run(script):
            assert time.monotonic() < deadline, script
            time.sleep(0.02)

    def press(self, name):
        self.run("[...document.querySelectorAll('button')].findLast(b => b.textContent === arguments[0]).click()", name)

    def say(self, text, tokens):
        self.run("void ($('max_tokens').value = arguments[0])", tokens)
        self.driver.find_element(By.ID, "input").send_keys(text, Keys.ENTER)

    def idle(self):
        self.wait("state.controller === null")
        self.wait("new Promise(requestAnimationFrame)")  # what was to be drawn is

    def talk(self):
        return [tuple(m) for m in self.run("state.talk.map(m => [m.role, m.content])")]

    def shown(self):
        return self.run("[...document.querySelectorAll('.message .text')].map(e => e.textContent)")

    def take(self, text):
        path = pathlib.Path(self.folder.name, "import.json")
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        self.driver.execute_script("""
            const text = Blob.prototype.text;
            window.read = false;
            Blob.prototype.text = async function() {
              Blob.prototype.text = text;
              const read = await text.call(this);
              setTimeout(() => window.read = true);  // behind what the page does with it
              return read;
            };""")
        self.driver.find_element(By.ID, "file").send_keys(str(path))
        self.wait("window.read")
        self.idle()

    def picture(self, name):
        if self.pictures:
            self.driver.save_screenshot(str(pathlib.Path(self.pictures, name + ".png")))


def talks(page):
    page.say("Hello", 8)
    page.idle()
    (_, asked), (role, told) = page.talk()
    assert (asked, role) == ("Hello", "assistant") and told, page.talk()
    assert "tokens held" in page.run("$('figures').textContent")
    page.picture("talk")
    page.press("Again")
    page.idle()
    assert len(page.talk()) == 2
    page.press("Edit")
    assert (page.talk(), page.run("$('input').value")) == ([], "Hello")
    page.run("void ($('input').value = '')")


def long_answers(page):
    """Whatever is pressed while an answer comes, there is one, and what is shown is what is kept."""
    writes = "state.controller && state.talk.at(-1).content.length > 20"
    for press in ("Again", "Edit", "New"):
        page.say("Tell more", 3000)
        page.wait(writes)
        page.press(press)
        if press != "New":
            assert page.run("state.talk.length") >= 2 and page.run("state.controller !== null"), press
            page.driver.find_element(By.TAG_NAME, "body").send_keys(Keys.ESCAPE)
        page.idle()
        assert len(page.shown()) == len(page.talk()), (press, page.shown())
    page.say("Tell more", 3000)
    page.wait(writes)
    page.take({"messages": [{"role": "user", "content": "imported"}]})
    assert page.talk() == [("user", "imported")] and page.shown() == ["imported"], page.shown()


def files(page):
    talk = [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": HOSTILE}]
    page.take({"system": "<b>", "messages": talk + [{"role": "evil", "content": "x"}, None, {"role": "user", "content": {}}]})
    assert page.run("window.taken === undefined && !document.querySelector('#talk :is(img, script, svg, a)')")
    assert page.talk() == [(m["role"], m["content"]) for m in talk]
    page.picture("hostile")
    page.press("Export")
    saved = pathlib.Path(page.folder.name, "talk.json")
    deadline = time.monotonic() + 20
    while not saved.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert json.loads(saved.read_text()) == {"system": "<b>", "messages": talk}
    for bad in ("", "[]", "{}", '{"messages": 3}', "nonsense", "null"):
        page.run("void ($('status').textContent = '')")
        page.take(bad)
        assert page.run("$('status').textContent"), bad
        assert len(page.talk()) == 2
    for system in ({"a": 1}, None, 3):
        page.take({"system": system, "messages": [{"role": "system", "content": system}]})
        assert page.run("$('system').value") == "", system
    page.take({"messages": [{"role": "system", "content": "Be brief"}]})
    assert page.run("$('system').value") == "Be brief"


def markdown(page):
    for text, wanted in MARKDOWN:
        got = page.run("(() => { const e = document.createElement('div'); markdown(e, arguments[0]); return e.innerHTML; })"
                       ".apply(null, arguments)", text)
        assert got == wanted, (text, got)
    # These took minutes.
    page.run("markdown(document.createElement('div'), Array.from({length: 400}, (_, i) => '`'.repeat(i) + 'a').join(''))")
    page.run("markdown(document.createElement('div'), '*a'.repeat(9000) + '`'.repeat(20000) + '**'.repeat(9000))")


def phone(page):
    talk = [("user", "x" * 3000), ("assistant", "```\n" + "y" * 2000 + "\n```\n- " + "z" * 500)]
    page.take({"messages": [{"role": r, "content": c} for r, c in talk]})
    for dark in (False, True):
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        for width in (320, 360, 412):
            page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                        {"width": width, "height": 640, "deviceScaleFactor": 2, "mobile": True})
            page.driver.get(page.url)
            for panel in (False, True):
                if panel:
                    page.press("Settings")
                assert page.run("document.documentElement.scrollWidth") == width, (width, panel)
                page.picture(f"phone-{width}{'-panel' * panel}{'-dark' * dark}")
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    page.driver.get(page.url)
    page.picture("dark")


def errors(page):
    page.run("void ($('kv').value = 'nonsense')")
    page.say("What", 8)
    page.idle()
    assert "nonsense" in page.run("document.querySelector('.error').textContent")
    told = page.run("body().messages")
    assert all(turn["content"] not in ("", "What") for turn in told), told
    faults = [entry for entry in page.driver.get_log("browser") if entry["level"] == "SEVERE"
              and "status of 400" not in entry["message"] and "favicon" not in entry["message"]]
    assert not faults, faults


def main():
    hawser, model = sys.argv[1:3]
    pictures = sys.argv[3] if len(sys.argv) > 3 else None
    with tempfile.TemporaryDirectory() as folder:
        if model == "builtin":
            model = folder + "/m"
            subprocess.run([hawser, "convert", "builtin", model, "--quiet"], check=True)
            template = ("{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
                        "{% if add_generation_prompt %}<assistant>{% endif %}")
            pathlib.Path(model, "chat_template.jinja").write_text(template)
        process, url = start(hawser, model, "--threads", "1")
        page = None
        try:
            page = Page(url + "/", pictures)
            for what in (talks, long_answers, files, markdown, phone, errors):
                what(page)
                print(what.__name__)
        finally:
            if page:
                page.driver.quit()
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
