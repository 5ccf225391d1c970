#!/usr/bin/env python3
"""Compares the interpreter with jinja2 over chat templates from the wild.

    python3 tests/golden/template_wild.py DRIVER DIRECTORY...

DRIVER is the built tests/template_driver; every *.jinja below the directories is rendered over the
conversations of template.py. Good sources: the llama-cpp-python source package
(vendor/llama.cpp/models/templates) and the trl wheel. Exit status 1 when anything differs.
"""
import hashlib
import pathlib
import subprocess
import sys

import template as reference


class Driver:
    def __init__(self, path):
        self.p = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def render(self, template, messages, tools=None, kwargs=None, add=True, bos="<s>", eos="</s>"):
        parts = [template, reference.dumps(messages), None if tools is None else reference.dumps(tools),
                 None if kwargs is None else reference.dumps(kwargs), bos, eos]
        raw = [None if p is None else p.encode() for p in parts]
        head = " ".join(str(-1 if r is None else len(r)) for r in raw)
        now = int(reference.NOW.timestamp())
        self.p.stdin.write(f"{head} {int(add)} {now}\n".encode() + b"".join(r for r in raw if r is not None))
        self.p.stdin.flush()
        code, n = map(int, self.p.stdout.readline().split())
        return code, self.p.stdout.read(n).decode()


def same(ours, theirs):
    if theirs[0] == 0:
        return ours == theirs
    if theirs[0] == 1:
        return ours[0] != 0 and ours[1] == theirs[1].replace("\n", " ")[:511]
    return ours[0] != 0


def main():
    driver = Driver(sys.argv[1])
    files = sorted(f for d in sys.argv[2:] for f in pathlib.Path(d).rglob("*.jinja"))
    seen, templates, cases, texts, different = set(), 0, 0, 0, []
    for file in files:
        template = file.read_text()
        if (digest := hashlib.sha256(template.encode()).digest()) in seen:
            continue
        seen.add(digest)
        templates += 1
        for name, *args in reference.conversations():
            theirs = reference.render(template, *args)
            ours = driver.render(template, *args)
            cases += 1
            texts += theirs[0] == 0
            if not same(ours, theirs):
                different.append((file, name, ours, theirs))
    for file, name, ours, theirs in different[:40]:
        print(f"{file.name} [{name}]")
        if ours[0] == 0 and theirs[0] == 0:
            at = next((i for i, (x, y) in enumerate(zip(ours[1], theirs[1])) if x != y), min(len(ours[1]), len(theirs[1])))
            print(f"  ours   {ours[1][max(0, at - 40):at + 40]!r}\n  theirs {theirs[1][max(0, at - 40):at + 40]!r}")
        else:
            print(f"  ours   {ours[0]} {ours[1][:200]!r}\n  theirs {theirs[0]} {theirs[1][:200]!r}")
    bad = len({f for f, *_ in different})
    print(f"{templates} templates, {cases} renderings ({texts} texts, {cases - texts} refusals): "
          f"{len(different)} differ, in {bad} templates")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
