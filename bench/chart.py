"""Draws requests/s as bars, one panel a load: an SVG that reads well on light
and on dark, which is why all colours are of middle lightness and nothing is
painted behind them."""

from xml.sax.saxutils import escape

COLUMNS, PANEL, GAP = 3, 270, 24  # panels in a row, their width, between them
LABEL, NUMBER = 78, 62  # width of a server's name and of a figure
BAR, PITCH, HEAD, HEADING = 10, 16, 26, 30  # height of a bar, from bar to bar, of a panel's title, a group's
TEXT, OURS, OTHERS = "#757c85", "#2879e2", "#98a0aa"


def draw(groups, ours, caption):
    """groups is a list of a heading and panels, and these are a list of a title
    and a dict of figures by name. A heading alone says nothing."""
    parts, bottom = [], 0
    for heading, panels in groups:
        if len(groups) > 1:
            parts.append(text(0, bottom + 16, heading, weight="bold", size=16))
            bottom += HEADING
        for top in range(0, len(panels), COLUMNS):
            row = panels[top : top + COLUMNS]
            for i, (title, figures) in enumerate(row):
                parts += panel(i * (PANEL + GAP), bottom, title, figures, ours)
            bottom += HEAD + PITCH * max(len(figures) for _, figures in row) + GAP
    parts.append(text(0, bottom + 4, caption))
    width, height = COLUMNS * (PANEL + GAP) - GAP, bottom + 12
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img"'
        ' font-family="Helvetica, Arial, sans-serif" font-size="12">\n<title>%s</title>\n%s\n</svg>\n'
        % (width, height, width, height, escape(caption), "\n".join(parts))
    )


def panel(x, y, title, figures, ours):
    parts = [text(x, y + 14, title, weight="bold")]
    room, most = PANEL - LABEL - NUMBER, max(figures.values())
    for i, (name, figure) in enumerate(figures.items()):
        top = y + HEAD + i * PITCH
        colour, ink = (OURS, OURS) if name == ours else (OTHERS, TEXT)
        length = max(room * figure / most, 1)
        parts.append(text(x + LABEL - 8, top + BAR - 1, name, ink, "end"))
        parts.append(
            '<rect x="%d" y="%d" width="%.1f" height="%d" rx="2" fill="%s"/>' % (x + LABEL, top, length, BAR, colour)
        )
        parts.append(text(x + LABEL + length + 6, top + BAR - 1, "{:,.0f}".format(figure), ink))
    return parts


def text(x, y, words, ink=TEXT, anchor="start", weight="normal", size=12):
    return '<text x="%.1f" y="%.1f" fill="%s" text-anchor="%s" font-weight="%s" font-size="%d">%s</text>' % (
        x,
        y,
        ink,
        anchor,
        weight,
        size,
        escape(words),
    )
