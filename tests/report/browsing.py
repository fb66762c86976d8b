"""A written report in a real browser, from disk."""

import pathlib
import re
import time

import pytest


class Opened:
    """A report in the browser, with what it asked for and complained of."""

    def __init__(self, context, workdir):
        self.requests, self.complaints = [], []
        self.page = context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append("a dialog"), dialog.dismiss()))
        self.folder = pathlib.Path(workdir.report).as_uri()
        start = time.monotonic()
        self.page.goto(f"{self.folder}/index.html")
        self.seconds = time.monotonic() - start

    def check(self):
        """Fails where the page loaded anything but itself, its classes and their names, or wrote to the console."""
        assert not self.complaints
        beside = [url for url in self.requests if not url.startswith("data:")]
        assert all(
            re.fullmatch(re.escape(self.folder) + r"/(index\.html|names\.js|classes/\d+\.js)", url) for url in beside
        )

    def faults(self):
        """Faults of accessibility, as axe finds them."""
        axe = pytest.importorskip("axe_playwright_python")
        self.page.evaluate((pathlib.Path(axe.__file__).parent / "axe.min.js").read_text())
        found = self.page.evaluate("axe.run()")["violations"]
        return [(each["id"], each["nodes"][0]["html"]) for each in found]

    def groups(self):
        """Kept position -> the group's positions, of the cards; every card is asked for."""
        while (more := self.page.locator("#more")).is_visible():
            more.click()
        cards = self.page.eval_on_selector_all(
            "#cards > li",
            """cards => cards.map(card => [Number(card.dataset.kept), Number(card.dataset.size),
              Number(card.dataset.spread), [...card.querySelectorAll("img")].map(
                image => [image.dataset.role, Number(image.dataset.position)])])""",
        )
        for kept, size, _, shown in cards:
            assert [position for role, position in shown if role == "kept"] == [kept]
            assert len([role for role, _ in shown if role != "outside"]) == size
        return cards

    def class_names(self):
        return self.page.locator("#classes bdi").all_text_contents()

    def open_class(self, number):
        button = self.page.locator("#classes button").nth(number)
        button.click()
        self.page.wait_for_selector("#class-view[aria-busy=false]")
        assert button.get_attribute("aria-current") == "true"

    def move_to(self, number):
        self.page.locator("#fraction").fill(str(number))
