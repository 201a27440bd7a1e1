"""text.py - the examples in our documents, as a reader would paste them.

In smtpd-recipes(7) and smtpd(8) an example is what stands between .Bd -literal
and .Ed; in README, lines that are set in.
"""
import re


def manual(path, section=None):
    """[(heading, example)] of a manual page, or of one section of it."""
    found, heading, block, within = [], "", None, ""
    with open(path, encoding="utf-8") as f:
        for line in f.read().splitlines():
            if block is None and (at := re.match(r"\.S[hs] (.*)", line)):
                heading = at[1]
                within = heading if line.startswith(".Sh") else within
            elif line.startswith(".Bd -literal"):
                block = []
            elif line == ".Ed" and block is not None:
                if section in (None, within):
                    found.append((heading, "\n".join(block) + "\n"))
                block = None
            elif block is not None:
                block.append(line.replace(r"\e", "\\").replace(r"\&", ""))
    return found


def readme(path):
    """[(heading, example)] of README: a heading is a line in capitals, and an
    example a run of lines that begin with the same blanks."""
    found, heading = [], ""
    with open(path, encoding="utf-8") as f:
        paragraphs = f.read().split("\n\n")
    for text in paragraphs:
        text = text.strip("\n")
        if re.fullmatch(r"[A-Z0-9 ,]+", text):
            heading = text
        elif text.startswith("    "):
            found.append((heading, re.sub(r"^ {4}", "", text, flags=re.M) +
                          "\n"))
    return found


def commands(example):
    """The command lines of an example: those that a backslash continues are
    one, and two blanks begin what is said about it."""
    whole = re.sub(r"\\\n\s*", "", example)
    return [re.split(r" {2,}(?=\S)", line.strip())[0]
            for line in whole.splitlines() if line.strip()]


def under(examples, heading):
    """The examples below the heading that begins so."""
    some = [text for at, text in examples if at.startswith(heading)]
    assert some, f"no example is below {heading}"
    return some
