"""Two people talk to each other in the chat, each with a browser.

    python chat_browser.py URL

Each step's name is printed when it has succeeded.
"""

import concurrent.futures
import contextlib
import sys
import tempfile

from admin_browser import Visit, start_browser


class Person(Visit):
    def __init__(self, browser, base, name):
        super().__init__(browser, base)
        self.name = name

    def enter(self):
        self.browser.get(self.base + "/")
        self.type("#name", self.name)
        self.click("button")
        self.see("h1", self.name)
        self.see("#state", "open")

    def say(self, words):
        self.type("#words", words)
        self.click("button")

    def hears(self, *lines):
        """These are the last lines."""
        self.wait(lambda b: self.lines()[-len(lines):] == list(lines))

    def lines(self):
        return self.browser.execute_script(
            "return [...document.querySelectorAll('#said li')].map(item => item.textContent)")

    def no_complaints(self):
        complaints = [e["message"] for e in self.browser.get_log("browser") if e["level"] == "SEVERE"]
        if complaints:
            raise AssertionError("the browser's console: %r" % (complaints,))


def talk(ada, zoe):
    ada.enter()
    ada.hears("Ada: enters")
    zoe.enter()
    for person in ada, zoe:
        person.hears("Zoë <b>: enters")
    ada.say("Hello, who is there?")
    for person in ada, zoe:
        person.hears("Zoë <b>: enters", "Ada: Hello, who is there?")
    zoe.say("„Ich!“ ☃")
    ada.hears("Ada: Hello, who is there?", "Zoë <b>: „Ich!“ ☃")
    zoe.hears("Ada: Hello, who is there?", "Zoë <b>: „Ich!“ ☃")
    print("browsers talk: ok", flush=True)

    for n in range(5):
        ada.say("line %d" % n)
        zoe.hears("Ada: line %d" % n)
        zoe.say("answer %d" % n)
        ada.hears("Ada: line %d" % n, "Zoë <b>: answer %d" % n)
    print("browsers go on: ok", flush=True)

    zoe.browser.execute_script("socket.close(3001, 'later')")
    zoe.see("#state", "closed 3001 true")
    ada.hears("Zoë <b>: leaves (3001)")
    ada.browser.execute_script("socket.close(3000, 'enough')")
    ada.see("#state", "closed 3000 true")
    for person in ada, zoe:
        person.no_complaints()
    print("browsers leave: ok", flush=True)


def main(base):
    with contextlib.ExitStack() as stack:
        profiles = [stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)) for _ in range(2)]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            starts = [pool.submit(start_browser, profile) for profile in profiles]
        browsers = [start.result() for start in starts]
        for browser in browsers:
            stack.callback(browser.quit)
        ada, zoe = (Person(browser, base, name) for browser, name in zip(browsers, ("Ada", "Zoë <b>")))
        try:
            talk(ada, zoe)
        except Exception:
            for person in ada, zoe:
                print("%s: %s\n%s" % (person.name, person.browser.current_url, person.browser.page_source))
            raise


if __name__ == "__main__":
    main(sys.argv[1])
