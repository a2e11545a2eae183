"""A person without a mouse."""

from __future__ import annotations

from playwright.sync_api import Page

_FOCUSED = """() => {
  const one = document.activeElement;
  const labels = [...(one.labels || [])].map((label) => label.innerText);
  return (one.getAttribute('aria-label') || labels[0] || one.innerText || '').trim().split('\\n').pop();
}"""


def tabs_to(page: Page, name: str, *, most: int = 80, key: str = "Tab") -> None:
    """Press Tab until what is called so has the focus. AssertionError with what was passed when it does not get it."""
    passed = []
    for _ in range(most):
        page.keyboard.press(key)
        passed.append(page.evaluate(_FOCUSED))
        if passed[-1] == name:
            return
    raise AssertionError(f"{name!r} is not to be had by {key}: {passed}")
