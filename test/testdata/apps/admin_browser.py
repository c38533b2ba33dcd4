"""Works in the Django site's administration with a real browser.

    python admin_browser.py URL

Each step's name is printed when it has succeeded.
"""

import os
import shutil
import sys
import tempfile

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as expected
from selenium.webdriver.support.ui import Select, WebDriverWait

from client import PASSWORD, USER

PATIENCE = 30  # seconds for one page


def program(variable, *names):
    """Where a program is: the environment may say it."""
    path = os.environ.get(variable) or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        sys.exit("the browser test needs %s: install the Debian packages chromium and chromium-driver"
                 % " or ".join(names))
    return path


def start_browser(profile, *more):
    options = webdriver.ChromeOptions()
    options.binary_location = program("CHROMIUM", "chromium", "chromium-browser", "google-chrome")
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", "--disable-sync",
                 "--disable-dev-shm-usage", "--window-size=1200,1000", "--user-data-dir=" + profile, *more):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(program("CHROMEDRIVER", "chromedriver"))
    return webdriver.Chrome(options=options, service=service)


class Visit:
    def __init__(self, browser, base):
        self.browser, self.base = browser, base

    def wait(self, condition):
        # What is looked at may be of a page that is just being left.
        return WebDriverWait(self.browser, PATIENCE, ignored_exceptions=[WebDriverException]).until(condition)

    def see(self, selector, text):
        self.wait(expected.text_to_be_present_in_element((By.CSS_SELECTOR, selector), text))

    def find(self, selector):
        return self.wait(expected.element_to_be_clickable((By.CSS_SELECTOR, selector)))

    def type(self, selector, text):
        self.find(selector).send_keys(text)

    def click(self, selector):
        self.find(selector).click()

    def style(self, selector, name):
        return self.find(selector).value_of_css_property(name)

    def log_in(self):
        self.browser.get(self.base + "/admin/")
        self.type("#id_username", USER)
        self.type("#id_password", PASSWORD)
        self.click("input[type=submit]")
        self.see("#content h1", "Site administration")

    def styles(self):
        # The header's ground is dark only by the style sheet.
        ground = self.style("#header", "background-color")
        if ground in ("rgba(0, 0, 0, 0)", "rgb(255, 255, 255)"):
            raise AssertionError("#header has the colour %s: no style sheet was applied" % ground)
        sheets = self.browser.execute_script(
            "return [...document.styleSheets].map(s => [s.href, s.cssRules.length])")
        if len(sheets) < 3 or not all(rules for _, rules in sheets):
            raise AssertionError("style sheets: %r" % (sheets,))

    def add_book(self):
        self.click("a[href='/admin/books/book/add/']")
        self.type("#id_title", "Brücken & <Wege>")
        self.type("#id_author", "Zoë Müller")
        self.type("#id_pages", "123")
        self.click("input[name=_save]")
        self.see(".messagelist .success", "was added successfully")
        self.see("#result_list .field-title", "Brücken & <Wege>")
        self.see("#result_list .field-author", "Zoë Müller")
        self.see(".paginator", "1 book")

    def add_user(self):
        self.browser.get(self.base + "/admin/auth/user/add/")
        self.type("#id_username", "visitor")
        for field in "#id_password1", "#id_password2":
            self.type(field, "a long enough passphrase")
        self.click("input[name=_save]")
        self.see(".messagelist .success", "was added successfully")
        # The second form hides behind scripts, which had to load and run.
        self.type("#id_first_name", "Ada")
        self.click("#id_user_permissions_add_all")
        self.wait(lambda b: len(Select(b.find_element(By.ID, "id_user_permissions_to")).options) > 10)
        self.click("input[name=_save]")
        self.see("#result_list", "visitor")
        self.see("#result_list", "Ada")

    def delete_book(self):
        self.browser.get(self.base + "/admin/books/book/")
        self.click("#result_list input.action-select")
        Select(self.find("select[name=action]")).select_by_value("delete_selected")
        self.click("button[name=index]")
        # The list has a button of that type too, until the page has changed.
        self.click("input[type=submit][value*=sure]")
        self.see(".messagelist .success", "Successfully deleted 1 book")
        self.see(".paginator", "0 books")

    def log_out(self):
        self.click("#logout-form button")
        self.see("#content h1", "Logged out")
        self.browser.get(self.base + "/admin/")
        self.find("#id_username")

    def no_complaints(self):
        # A file that did not arrive, or with the wrong type, is an entry here.
        complaints = [e["message"] for e in self.browser.get_log("browser")
                      if e["level"] == "SEVERE" and "favicon.ico" not in e["message"]]
        if complaints:
            raise AssertionError("the browser's console: %r" % (complaints,))


def main(base):
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = start_browser(profile)
        try:
            visit = Visit(browser, base)
            for step in (visit.log_in, visit.styles, visit.add_book, visit.add_user, visit.delete_book,
                         visit.log_out, visit.no_complaints):
                try:
                    step()
                except Exception:
                    print("browser %s: FAILED at %s\n%s" % (
                        step.__name__, browser.current_url, browser.page_source))
                    raise
                print("browser %s: ok" % step.__name__, flush=True)
        finally:
            browser.quit()


if __name__ == "__main__":
    main(sys.argv[1])
