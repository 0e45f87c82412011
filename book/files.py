"""A preprocessor of mdBook: pages and files outside of docs/ become pages of the site, so that it needs nothing but itself.

Its pages link to what lies outside of docs/ as they do in the repository. Here README.md becomes the first page, the other pages of the
summary keep their place below the repository's root, and each file that a page links to becomes a page that shows it.
"""

import json
import pathlib
import posixpath
import re
import sys

# A link's target outside of code: a page, a file or an anchor, never an address.
CODE = r"(?m:^```.*\n(?:.*\n)*?```$)|`[^`\n]*`"
TARGET = re.compile(rf"({CODE})|(\]\()(?![a-z]+:)([^)#\s]*)((?:#[^)\s]*)?\))")
LANGUAGES = {".yaml": "yaml", ".toml": "toml", ".json": "json"}


def chapters(items):
    for item in items:
        if isinstance(item, dict) and "Chapter" in item:
            yield item["Chapter"]
            yield from chapters(item["Chapter"]["sub_items"])


def place(path):
    """The place of a repository's file in the site: docs/ and the root are one, and mdBook calls a README index."""
    return re.sub(r"(^|/)README\.md$", r"\1index.md", path.removeprefix("docs/"))


def page(path, text):
    return {"name": path, "content": text, "number": None, "sub_items": [], "path": f"{path}.md",
            "source_path": None, "parent_names": []}


def main():
    if sys.argv[1:2] == ["supports"]:
        return
    context, book = json.load(sys.stdin)
    if "items" not in book:
        sys.exit(f"book/files.py does not know the format of mdBook {context['mdbook_version']}: cargo install --locked mdbook@0.5.4")
    root = pathlib.Path(context["root"]).resolve().parent
    shown = {}
    pages = {}
    for chapter in chapters(book["items"]):
        source = posixpath.normpath(posixpath.join("docs", chapter["source_path"]))
        chapter["path"] = pages[source] = place(source)
        chapter["source"] = source

    def linked(source, target):
        """The path, from the page of `source`, of the page that shows `target`."""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        file = root / path
        if not file.is_file():
            sys.exit(f"{source} links to {target}, which is not a file of the repository: correct the link")
        to = pages.get(path)
        if to is None and file.suffix in {".svg", ".png"}:
            to = place(path)
        elif to is None:
            shown[path] = file
            to = f"{path}.md"
        return posixpath.relpath(to, posixpath.dirname(pages[source]) or ".")

    for chapter in chapters(book["items"]):
        source = chapter.pop("source")
        chapter["content"] = TARGET.sub(
            lambda found: found[1] or found[2] + (linked(source, found[3]) if found[3] else "") + found[4],
            chapter["content"],
        )
    book["items"].append({"PartTitle": "Files that the pages name"})
    for path, file in sorted(shown.items()):
        text = file.read_text()
        fence = "`" * (3 + max((len(run) for run in re.findall("`+", text)), default=0))
        language = LANGUAGES.get(file.suffix, "text")
        content = f"# {path}\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"
        book["items"].append({"Chapter": page(path, content)})
    json.dump(book, sys.stdout)


main()
