"""What a benchmark shows: a table and a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from flaxcifar import console


def publish(table: Table, panels: Mapping[str, "Bars"], output: Path) -> None:
    """Prints the table and draws the panels beside `output`, which has the rows, as PNG."""
    console.show(table)
    picture = output.with_suffix(".png")
    draw(panels, picture)
    console.say(f"rows: {output}; plot: {picture}")


def make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Returns a table whose first columns are words and whose cells are right-aligned numbers."""
    table = Table(title=title, title_justify="left")
    for n, column in enumerate(columns):
        words = all(not row[n][:1].isdigit() for row in rows)
        table.add_column(column, justify="left" if words else "right")
    for row in rows:
        table.add_row(*row)
    return table


# {group: {series: (value, low, high)}}
Bars = Mapping[str, Mapping[str, tuple[float, float, float]]]


def draw(panels: Mapping[str, Bars], path: Path) -> None:
    """Draws a panel of horizontal bars for each measure, with the spread as whiskers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(s for bars in panels.values() for g in bars.values() for s in g))
    colours = dict(zip(names, pyplot.get_cmap("tab10").colors * 3, strict=False))
    height = max(sum(len(group) + 1 for group in bars.values()) for bars in panels.values())
    size = (6.5 * len(panels), 1.2 + 0.27 * height)
    figure, _ = pyplot.subplots(1, len(panels), figsize=size, layout="constrained")
    for axis, (measure, bars) in zip(figure.axes, panels.items(), strict=True):
        place, ticks = 0.0, {}
        for group, series in bars.items():
            ticks[group] = place + (len(series) - 1) / 2
            for name, (value, low, high) in series.items():
                axis.barh(place, value, color=colours[name])
                axis.hlines(place, low, high, color="black", linewidth=1)
                number = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
                axis.text(high, place, f" {number}", va="center", fontsize=7)
                place += 1
            place += 1
        axis.set_yticks(list(ticks.values()), list(ticks), fontsize=7)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_xlabel(measure)
        axis.spines[["top", "right"]].set_visible(False)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colours[name]) for name in names]
    figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 5), fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
