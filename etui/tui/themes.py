"""etui's two themes, in addition to those of Textual.

The backgrounds are muted, so that green, amber and red keep their meaning: low, medium and high
watts. The cursor's row is muted as well, because coloured words appear on it.
"""

from __future__ import annotations

from textual.theme import Theme

DARK = Theme(
    name="etui-dark",
    primary="#6CA7C4",
    secondary="#8D97C7",
    accent="#F0B35B",
    warning="#E0A33E",
    error="#E0736A",
    success="#84C07A",
    foreground="#D9DEE2",
    background="#12161A",
    surface="#191F24",
    panel="#222A31",
    dark=True,
    variables={
        "block-cursor-background": "#2B4453",
        "block-cursor-foreground": "#F2F5F7",
        "scrollbar-background": "#191F24",
    },
)

LIGHT = Theme(
    name="etui-light",
    primary="#20708F",
    secondary="#545E9B",
    accent="#A75F08",
    warning="#946200",
    error="#B1362C",
    success="#35742A",
    foreground="#1D2429",
    background="#F7F5F0",
    surface="#EDEAE2",
    panel="#E2DED3",
    dark=False,
    variables={
        "block-cursor-background": "#C3DBE6",
        "block-cursor-foreground": "#11181C",
        "scrollbar-background": "#EDEAE2",
    },
)

THEMES = (DARK, LIGHT)
