"""Opens the sample report in headless Chromium and uses it: python3 tools/report_in_chromium.py REPORT.html SCREENSHOTS

The standard library alone; chromium and chromedriver have to be on the path (tools/browser.sh). The page is opened from its file:// address.
Checked: a click on a query patch changes the overlay and shows the numbers that follow from how the sample's attention is defined; keys, selects,
CLS, windows, head buttons; no error on the console; nothing is asked of any network; no sideways scrolling at 1280 and 400 pixels. Screenshots of
every section, at both widths, light and dark, go to SCREENSHOTS. Exit code 0 if all of it holds, 1 if not.
"""

import base64
import http.client
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile

ARROW_RIGHT, ARROW_DOWN = "\ue014", "\ue015"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """A session of chromedriver (W3C WebDriver)."""

    def __init__(self, profile):
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            port = next((m for line in self.driver.stdout if (m := re.search(r"started successfully on port (\d+)", line))), None)
            if port is None:
                raise RuntimeError("chromedriver did not start")
            self.connection = http.client.HTTPConnection("127.0.0.1", int(port[1]), timeout=180)
            # No sandbox, as it is refused to root, whom containers run as; no host name resolves, as nothing may be asked for.
            arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
                         "--force-color-profile=srgb", "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}"]
            options = {"args": arguments}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
            self.path = "/session"
            self.path += "/" + self.call("POST", "", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        except BaseException:
            self.driver.terminate()
            raise

    def call(self, method, path, body=None):
        text = None if body is None else json.dumps(body)
        self.connection.request(method, self.path + path, text, {"Content-Type": "application/json"})
        value = json.loads(self.connection.getresponse().read())["value"]
        if isinstance(value, dict) and "error" in value:
            raise RuntimeError(f"{path}: {value['error']}: {value['message'].splitlines()[0]}")
        return value

    def close(self):
        try:
            self.call("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait()

    def run(self, script, *arguments):
        return self.call("POST", "/execute/sync", {"script": script, "args": arguments})

    def devtools(self, command, **parameters):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def find(self, selector):
        return self.call("POST", "/element", {"using": "css selector", "value": selector})

    def click(self, element, dx=0, dy=0):
        """A real click, at an offset from the element's middle."""
        moves = [{"type": "pointerMove", "origin": element, "x": round(dx), "y": round(dy)}, {"type": "pointerDown", "button": 0},
                 {"type": "pointerUp", "button": 0}]
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        self.call("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": moves}]})

    def press(self, key):
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]}]})

    def size(self, width, height, dark=False):
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])

    def screenshots(self, folder, name):
        """Of what a page begins with and of every section, each in one piece: a page is too long to look at."""
        self.run("scrollTo({top: 0, behavior: 'instant'})")
        boxes = self.run("""const top = document.querySelector('main').getBoundingClientRect().top, rest = [...document.querySelectorAll('main > section')];
            return [[0, 0, innerWidth, Math.max(top, innerHeight)], ...rest.map(s => s.getBoundingClientRect()).map(b => [b.x, b.y, b.width, b.height])]""")
        for i, (x, y, width, height) in enumerate(boxes):
            clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
            image = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
            (folder / f"{name}-{i}.png").write_bytes(base64.b64decode(image["data"]))

    def log(self, kind):
        return self.call("POST", "/se/log", {"type": kind})


class Page:
    """The sample report's explorer."""

    def __init__(self, browser):
        self.browser = browser
        self.views = [browser.find(f".panel:nth-of-type({i + 1}) .view") for i in range(2)]

    def overlays(self):
        return self.browser.run("return [...document.querySelectorAll('.overlay')].map(c => c.toDataURL())")

    def text(self, selector):
        return self.browser.run("return document.querySelector(arguments[0]).textContent", selector)

    def choose(self, name, option, panel=None):
        """Chooses as a user does: the select's value and its event."""
        where = f".panel:nth-of-type({panel + 1}) select" if panel is not None else f".explorer [name={name}]"
        script = """const [select, option] = [document.querySelector(arguments[0]), arguments[1]];
            select.selectedIndex = [...select.options].findIndex(o => o.text === option);
            if (select.selectedIndex < 0) throw new Error("no option " + option);
            for (const kind of ["input", "change"]) select.dispatchEvent(new Event(kind, {bubbles: true}));"""
        self.browser.run(script, where, option)

    def click_patch(self, panel, row, column, grid):
        width, height = self.browser.run("const b = arguments[0].getBoundingClientRect(); return [b.width, b.height]", self.views[panel])
        self.browser.click(self.views[panel], ((column + 0.5) / grid - 0.5) * width, ((row + 0.5) / grid - 0.5) * height)


def check(holds, what):
    print(("ok      " if holds else "FAILED  ") + what)
    if not holds:
        check.failed += 1


check.failed = 0


def distance(grid, pixels, row, column, tokens):
    """Of the sample's first head: half of the attention stays, half is spread over all tokens; patches count alone."""
    others = [math.hypot(r - row, c - column) * pixels for r in range(grid) for c in range(grid)]
    return sum(others) * 0.5 / tokens / (0.5 + 0.5 / tokens * grid * grid)


def use(browser):
    """Everything that the explorer promises."""
    page = Page(browser)
    page.choose("layer", "1")
    page.choose("head", "1")
    before = page.overlays()
    # The ViTs have 7 x 7 patches of 8 pixels, and 3 tokens before them: 52 in all.
    page.click_patch(0, 1, 5, 7)
    after = page.overlays()
    check(all(a != b for a, b in zip(before, after)), "a click on a query patch changes both overlays")
    check(page.text(".value").startswith("Row 2, column 6: 0.510, 27 times"), f"the query's value is 0.5 + 0.5 / 52: {page.text('.value')}")
    wanted = distance(7, 8, 1, 5, 52)
    found = float(re.search(r"([\d.]+) px", page.text(".numbers"))[1])
    check(abs(found - wanted) <= 0.1, f"its attention distance is {wanted:.2f} px: {found}")
    check(re.search(r"to CLS0\.009[5-7]", page.text(".numbers")) is not None, "what goes to CLS is 0.5 / 52")

    browser.run("arguments[0].focus()", page.views[0])
    browser.press(ARROW_RIGHT)
    browser.press(ARROW_DOWN)
    label = browser.run("return arguments[0].getAttribute('aria-label')", page.views[0])
    check("row 3, column 7" in label and page.overlays() != after, f"arrow keys move the query: {label}")
    browser.press(ARROW_RIGHT)
    check("row 3, column 7" in browser.run("return arguments[0].getAttribute('aria-label')", page.views[0]), "and stop at the edge")

    for name, option in [("layer", "4"), ("head", "3"), ("head", "mean of heads"), ("query", "CLS"), ("query", "register 2"), ("query", "patch"),
                         ("image", "a sun over hills")]:
        old = page.overlays()
        page.choose(name, option)
        check(page.overlays() != old, f"{name}: {option} changes the overlay")
    page.choose("query", "CLS")
    check(page.text(".value") == "Query: CLS." and "–" in page.text(".numbers"), "CLS has no attention distance")
    page.choose("query", "patch")
    old = page.overlays()
    browser.click(browser.find(".heads button:nth-child(2)"))
    check(page.overlays() != old and "head 2" in page.text(".which"), "a head's button chooses it")
    old = page.overlays()
    browser.run("const o = document.querySelector('[name=opacity]'); o.value = 20; o.dispatchEvent(new Event('input', {bubbles: true}))")
    check(page.overlays() != old, "the overlay can be made fainter")
    browser.run("const o = document.querySelector('[name=opacity]'); o.value = 60; o.dispatchEvent(new Event('input', {bubbles: true}))")

    # A Swin: its windows are 7 x 7 of 14 x 14 tokens, the second layer's shifted by 3.
    page.choose("model", "Swin", panel=1)
    page.choose("layer", "2")
    page.click_patch(1, 0, 0, 14)
    shown = """const from = document.querySelector('.panel:nth-of-type(2) .overlay'), copy = new OffscreenCanvas(from.width, from.height);
        const context = copy.getContext('2d', {willReadFrequently: true});
        context.drawImage(from, 0, 0);
        return arguments[0].map(([x, y]) => context.getImageData(x * copy.width, y * copy.height, 1, 1).data[3] > 0)"""
    # The corner's window holds rows and columns 10 to 13 and 0 to 2 of the map.
    places = [[2.5 / 14, 0.5 / 14], [3.5 / 14, 0.5 / 14], [9.5 / 14, 0.5 / 14], [12.5 / 14, 12.5 / 14], [0.5 / 14, 5.5 / 14]]
    check(browser.run(shown, places) == [True, False, False, True, False], "a shifted window's attention lies where its tokens come from")
    browser.run("arguments[0].dispatchEvent(new PointerEvent('pointermove', {clientX: arguments[1], clientY: arguments[2]}))", page.views[1],
                *browser.run("const b = arguments[0].getBoundingClientRect(); return [b.left + b.width / 2, b.top + b.height / 2]", page.views[1]))
    check("outside the query’s window" in page.text(".panel:nth-of-type(2) .value"), "and beyond it there is none to read")
    browser.run("arguments[0].dispatchEvent(new PointerEvent('pointerleave'))", page.views[1])

    page.choose("model", "DINO + FD", panel=1)
    page.choose("image", "a shirt & its sleeves")
    page.choose("layer", "3")
    page.choose("head", "3")
    page.click_patch(0, 2, 3, 7)


def main(report, folder):
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(profile)
        try:
            browser.size(1280, 900)
            address = report.resolve().as_uri()
            browser.call("POST", "/url", {"url": address})
            try:
                use(browser)
            except RuntimeError as error:
                check(False, str(error))
            for width, height, dark in [(1280, 900, False), (400, 800, False), (1280, 900, True), (400, 800, True)]:
                browser.size(width, height, dark)
                wide = browser.run("return document.documentElement.scrollWidth")
                name = f"report-{width}{'-dark' if dark else ''}"
                check(wide <= width, f"{name}: the page is {wide} wide")
                outside = browser.run("""const boxes = [...document.querySelectorAll('body *')].filter(e => !e.closest('.wide > *'));
                    return boxes.filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))""")
                check(not outside, f"{name}: everything is within it {outside or ''}")
                browser.screenshots(folder, name)
            console = [entry["message"] for entry in browser.log("browser")]
            check(not console, f"the console is silent {console or ''}")
            messages = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
            sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
            # The empty tab that the browser begins with asks for its own parts.
            asked = {p["request"]["url"] for p in sent if not p["documentURL"].startswith("chrome:")}
            others = [url for url in asked if not url.startswith("data:")]
            check(others == [address], f"nothing is asked for but the page: {others}")
        finally:
            browser.close()
    print(f"screenshots: {folder}")
    return 1 if check.failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])))
