"""The syntax of the key ``auto_augment``, as MindCV's ``auto_augment.py`` parses it.

A dash joins a policy and its settings. A setting is a name followed by a number:
``randaug-m9-n2-mstd0.5-inc1``. MindCV checks the text only when the data set is built, by an
assertion without a message.
"""

from __future__ import annotations

import re

from mindcv_ghost.config.raw_value import IllegalValue
from mindcv_ghost.errors import did_you_mean

__all__ = ["check_auto_augment", "notices_of_auto_augment"]

_INTEGER, _NUMBER = r"\d+", r"\d+(\.\d*)?"
# policy -> setting -> (pattern of its number, meaning)
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
    """Return the settings after the policy as (name, number); the number may be ""."""
    settings = []
    for part in text.split("-")[1:]:
        name, number, _ = (re.split(r"(\d.*)", part, maxsplit=1) + ["", ""])[:3]
        settings.append((name, number))
    return settings


def check_auto_augment(text: str) -> None:
    """Check that MindCV can parse a policy.

    Args:
        text: the key's value.

    Raises:
        IllegalValue: if it can't; says what is legal.

    >>> check_auto_augment("randaug-m9-mstd0.5-inc1")
    """
    policy = text.split("-")[0]
    if policy not in _POLICIES:
        hint = did_you_mean(policy, _POLICIES)
        raise IllegalValue(f"a policy of {', '.join(_POLICIES)}, as randaug-m7-mstd0.5{hint}")
    legal = _POLICIES[policy]
    for name, number in _settings(text):
        if not number:
            continue  # MindCV ignores it: see notices_of_auto_augment
        if name not in legal or len(number) > 12:
            names = ", ".join(f"{key} ({meaning})" for key, (_, meaning) in legal.items())
            raise IllegalValue(f"{policy} with {names}; {name + number!r} is none of these")
        pattern, meaning = legal[name]
        if not re.fullmatch(pattern, number):
            raise IllegalValue(f"{policy} with {name} followed by its {meaning}, not {number!r}")


def notices_of_auto_augment(text: str) -> list[str]:
    """Return a notice for each setting that MindCV accepts but doesn't do as written.

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
            # MindCV calls hparams.setdefault("magnitude_std", 0.5) before it parses the setting.
            notices.append(f"auto_augment {text!r}: MindCV's mstd is 0.5, whatever is given")
    return notices
