"""The grammar of ``auto_augment``, as MindCV's ``auto_augment.py`` reads it.

A policy and its settings are joined by dashes, each setting a name followed by a number:
``randaug-m9-n2-mstd0.5-inc1``. MindCV checks it when the data set is built, with a bare assertion.
"""

from __future__ import annotations

import re

from mindcv_ghost.config.given import Wrong

__all__ = ["check_auto_augment", "notices_of_auto_augment"]

_INTEGER, _NUMBER = r"\d+", r"\d+(\.\d*)?"
# policy -> setting -> (what it must match, meaning)
_POLICIES: dict[str, dict[str, tuple[str, str]]] = {
    "randaug": {
        "m": (_INTEGER, "magnitude"),
        "n": (r"[1-9]\d*", "operations an image, at least 1"),
        "w": ("0", "probability weights: 0"),
        "mstd": (_NUMBER, "noise of the magnitude"),
        "mmax": (r"[1-9]\d*", "largest magnitude, at least 1"),
        "inc": ("[01]", "severity grows with the magnitude: 0 or 1"),
    },
    "autoaug": {"mstd": (_NUMBER, "noise of the magnitude")},
    "autoaugr": {"mstd": (_NUMBER, "noise of the magnitude")},
    "3a": {"mstd": (_NUMBER, "noise of the magnitude")},
    "trivialaugwide": {"m": (r"[1-9]\d*", "largest magnitude, at least 1")},
    "augmix": {
        "m": (_INTEGER, "magnitude"),
        "w": (r"[1-9]\d*", "chains, at least 1"),
        "d": (_INTEGER, "operations a chain, 0: 1 to 3"),
        "a": (r"(?=.*[1-9])\d+(\.\d*)?", "alpha, above 0"),
    },
}


def _settings(text: str) -> list[tuple[str, str]]:
    """Split everything behind the policy into names and numbers; the number may be missing."""
    settings = []
    for part in text.split("-")[1:]:
        name, number, _ = (re.split(r"(\d.*)", part, maxsplit=1) + ["", ""])[:3]
        settings.append((name, number))
    return settings


def check_auto_augment(text: str) -> None:
    """Refuse what MindCV couldn't read.

    Raises:
        Wrong: with what is legal.

    >>> check_auto_augment("randaug-m9-mstd0.5-inc1")
    """
    policy = text.split("-")[0]
    if policy not in _POLICIES:
        import difflib

        near = difflib.get_close_matches(policy.lower(), _POLICIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise Wrong(f"a policy of {', '.join(_POLICIES)}, as randaug-m7-mstd0.5{hint}")
    legal = _POLICIES[policy]
    for name, number in _settings(text):
        if not number:
            continue  # MindCV skips it: a notice
        if name not in legal or len(number) > 12:
            names = ", ".join(f"{key} ({meaning})" for key, (_, meaning) in legal.items())
            raise Wrong(f"{policy} with {names}; {name + number!r} is none of these")
        pattern, meaning = legal[name]
        if not re.fullmatch(pattern, number):
            raise Wrong(f"{policy} with {name} followed by its {meaning}, not {number!r}")


def notices_of_auto_augment(text: str) -> list[str]:
    """Name what MindCV accepts and then doesn't do.

    >>> notices_of_auto_augment("randaug-m9-inc0")
    ["auto_augment 'randaug-m9-inc0': MindCV takes inc0 for inc1; leave it out for 0"]
    """
    notices = []
    for name, number in _settings(text):
        if not number:
            notices.append(f"auto_augment {text!r}: {name!r} has no number and is ignored")
        elif (name, number) == ("inc", "0"):
            notices.append(f"auto_augment {text!r}: MindCV takes inc0 for inc1; leave it out for 0")
        elif name == "mstd" and float(number) != 0.5:
            # Its hparams.setdefault("magnitude_std", 0.5) comes before the setting is read.
            notices.append(f"auto_augment {text!r}: MindCV's mstd is 0.5, whatever is given")
    return notices
