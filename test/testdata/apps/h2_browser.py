"""A browser loads the page of h2_site.py.

    python h2_browser.py URL
"""

import sys
import tempfile

from admin_browser import Visit, start_browser

with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    browser = start_browser(profile, "--ignore-certificate-errors")
    try:
        browser.get(sys.argv[1] + "/")
        Visit(browser, sys.argv[1]).see("#done", "hello 2 100")
        text = browser.find_element("id", "done").text
        assert text == "hello 2 100", text  # and no part that came by another protocol
        browser.get(sys.argv[1] + "/ports")
        text = browser.find_element("tag name", "body").text
        assert text == "1", text + " connections"
    finally:
        browser.quit()
