#!/usr/bin/env python3
"""Opens each page of the site in Chromium, as a phone and as a screen: `just book-check`.

Fails if a page is wider than its window, a link, an anchor or a picture is missing, the console has an error, a picture's text is too
small on the phone, or the search does not find a word. Needs Playwright (requirements.txt) and a Chromium, which CHROMIUM may name.
"""

import functools
import http.server
import os
import pathlib
import shutil
import sys
import threading
import urllib.parse

from playwright.sync_api import sync_playwright

SITE = pathlib.Path(__file__).resolve().parent.parent / "target" / "book"
WINDOWS = {"phone": {"width": 390, "height": 844}, "screen": {"width": 1280, "height": 800}}
THEMES = ["light", "navy"]
# What a picture's texts measure in its own units, and the least on a phone, in pixels.
PICTURE_TEXT, LEAST_TEXT = 13 * 4 / 3, 9.5
# A word, and the page that has to be among the results.
SEARCHED = {"undone_by_hand": "runbook.html", "sentinel": "glossary.html", "Terraform": "faq.html"}

LOOK = """() => ({
  width: document.documentElement.scrollWidth,
  window: document.documentElement.clientWidth,
  wide: [...document.querySelectorAll('main *')].filter(part => part.getBoundingClientRect().right > innerWidth + 1 &&
    !part.closest('pre, .table-wrapper')).map(part => part.outerHTML.slice(0, 120)).slice(0, 3),
  ids: [...document.querySelectorAll('[id]')].map(part => part.id),
  links: [...document.querySelectorAll('a[href]')].map(link => link.href),
  // mdBook keeps a second copy of each picture, which is shown when the picture is clicked.
  pictures: [...document.querySelectorAll('main img')].filter(picture => !picture.closest('.img-wrapper')).map(picture =>
    ({src: picture.src, alt: picture.alt, natural: picture.naturalWidth, shown: picture.clientWidth})),
})"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def serve():
    handler = functools.partial(Quiet, directory=SITE)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


def check(browser, address):
    pages = sorted(str(file.relative_to(SITE)) for file in SITE.rglob("*.html"))
    # The list of pages is a frame of each page without scripts; 404.html is for addresses that do not exist.
    pages = [page for page in pages if page not in ("toc.html", "404.html")]
    faults, ids, links = [], {}, set()
    for name, window in WINDOWS.items():
        for theme in THEMES:
            context = browser.new_context(viewport=window, is_mobile=name == "phone", has_touch=name == "phone")
            context.add_init_script(f"localStorage.setItem('mdbook-theme', '{theme}')")
            tab = context.new_page()
            at = {"page": ""}
            fault = lambda text, place=f"{name}, {theme}": faults.append(f"{at['page']} ({place}): {text}")
            tab.on("console", lambda message: message.type == "error" and fault(message.text))
            tab.on("pageerror", lambda error: fault(str(error)))
            # The next page ends what the last one still loads.
            tab.on("requestfailed", lambda request: "ABORTED" in request.failure or fault(f"{request.url} failed"))
            tab.on("response", lambda answer: answer.status >= 400 and fault(f"{answer.url}: {answer.status}"))
            for page in pages:
                at["page"] = page
                tab.goto(address + page)
                seen = tab.evaluate(LOOK)
                if seen["width"] > seen["window"] or seen["wide"]:
                    fault(f"{seen['width']} px wide in a window of {seen['window']}: {seen['wide']}")
                ids[page] = set(seen["ids"])
                links |= {(page, link) for link in seen["links"]}
                for picture in seen["pictures"]:
                    if not picture["natural"] or not picture["alt"]:
                        fault(f"{picture['src']} is not shown, or has no text")
                    elif picture["src"].endswith(".svg"):
                        text = PICTURE_TEXT * picture["shown"] / picture["natural"]
                        if text < LEAST_TEXT:
                            fault(f"{picture['src']}: its texts are {text:.1f} px high")
            context.close()
    for page, link in sorted(links):
        if not link.startswith(address):
            continue
        path, anchor = urllib.parse.urldefrag(link.removeprefix(address))
        path = urllib.parse.unquote(path) or "index.html"
        if path not in ids and not (SITE / path).is_file():
            faults.append(f"{page}: no {path}")
        elif anchor and urllib.parse.unquote(anchor) not in ids.get(path, set()):
            faults.append(f"{page}: {path} has no {anchor}")
    return pages, links, faults + search(browser, address)


def search(browser, address):
    faults = []
    for name, window in WINDOWS.items():
        context = browser.new_context(viewport=window)
        tab = context.new_page()
        for word, page in SEARCHED.items():
            tab.goto(address + "index.html")
            tab.click("#mdbook-search-toggle")
            tab.locator("#mdbook-searchbar").press_sequentially(word)
            results = tab.locator("#mdbook-searchresults a")
            try:
                results.first.wait_for(timeout=10_000)
            except Exception:
                faults.append(f"the search ({name}) finds nothing for {word}")
                continue
            found = results.evaluate_all("links => links.map(link => link.href)")
            if not any(page in link for link in found):
                faults.append(f"the search ({name}) does not find {word} in {page}: {found[:5]}")
        context.close()
    return faults


def main():
    if not (SITE / "index.html").is_file():
        sys.exit("There is no site in target/book: make it with `just book`, then repeat")
    names = [os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"]
    program = next((found for found in map(shutil.which, filter(None, names)) if found), None)
    if program is None:
        sys.exit("Chromium is not installed: install it (Debian: apt-get install chromium), or name it in CHROMIUM, then repeat")
    address = serve()
    with sync_playwright() as playwright:
        # In a container, root may not use Chromium's sandbox. The only pages are the site's own.
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"] if root else [])
        pages, links, faults = check(browser, address)
        browser.close()
    for fault in sorted(set(faults)):
        print(fault)
    if faults:
        sys.exit(f"{len(set(faults))} faults on {len(pages)} pages")
    print(f"{len(pages)} pages, {len(links)} links: no fault")


main()
