"""Draws what `views` decided: plotly figures as plain data, SVG traces only.

Colours are names with an `@` (`@front`); the page puts in those of its light or dark palette.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from ..quantities import axis_title
from .agreement import Agreement
from .views import FrontView, Group, LimitLine, Point, Progress, Range, Strip

__all__ = ["CONFIG", "PALETTES", "agreement_figure", "front_figure", "progress_figure"]

Figure = dict[str, Any]

CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "displayModeBar": True,
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
    "plotlyServerURL": "",
    "responsive": True,
    "scrollZoom": False,
    "showAxisRangeEntryBoxes": False,
    "showSendToCloud": False,
    "showTips": False,
}
"""Plotly's configuration: no logo, nothing that leaves the page."""

PALETTES: dict[str, dict[str, str]] = {
    "light": {
        "@ink": "#1c2733", "@soft": "#5b6875", "@grid": "#e8ecf0", "@line": "#c3ccd5", "@paper": "#ffffff",
        "@front": "#0072b2", "@inside": "#5a9bc4", "@outside": "#9aa5b0", "@stopped": "#b9a36b", "@running": "#7a7f86",
        "@failed": "#b5403a", "@limit": "#d55e00", "@shade": "rgba(213,94,0,0.07)", "@bars": "rgba(90,110,130,0.28)",
        "@strip": "#f4f6f8",
    },
    "dark": {
        "@ink": "#e6ebf0", "@soft": "#9aa7b4", "@grid": "#26303a", "@line": "#44505c", "@paper": "#161c22",
        "@front": "#56b4e9", "@inside": "#4b8fb8", "@outside": "#6d7884", "@stopped": "#b39c5e", "@running": "#9aa1a9",
        "@failed": "#e0736c", "@limit": "#f0883e", "@shade": "rgba(240,136,62,0.09)", "@bars": "rgba(160,180,200,0.28)",
        "@strip": "#1c242c",
    },
}  # fmt: skip
"""Colours by name, after Okabe and Ito's palette that colour-blind people can tell apart."""

_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
_NAMES: dict[Group, str] = {
    "front": "Front so far, not verified",
    "inside": "Trial inside the limits",
    "outside": "Trial outside the limits",
    "stopped": "Stopped early",
    "running": "Running",
}
_SYMBOLS: dict[Group, str] = {
    "front": "circle",
    "inside": "circle",
    "outside": "x-thin",
    "stopped": "triangle-down",
    "running": "square",
}
_STRIP_SYMBOLS = {"no_y": ("line-ns", "@outside"), "no_x": ("diamond", "@outside"), "failed": ("x", "@failed")}
_PLOT = 440
_STRIP = 26
_GAP = 26
_UNDER = 40
_TOP = 64
_BOTTOM = 54


def _axis(title: str, **more: Any) -> dict[str, Any]:
    return {
        "title": {"text": title, "font": {"size": 13, "color": "@soft"}, "standoff": 10},
        "color": "@soft",
        "gridcolor": "@grid",
        "linecolor": "@line",
        "tickcolor": "@line",
        "ticks": "outside",
        "ticklen": 4,
        "tickfont": {"size": 12, "color": "@soft"},
        "zeroline": False,
        "showline": True,
        "automargin": True,
    } | more


def _layout(height: int, **more: Any) -> dict[str, Any]:
    return {
        "height": height,
        "autosize": True,
        "margin": {"l": 62, "r": 14, "t": _TOP, "b": _BOTTOM},
        "paper_bgcolor": "@paper",
        "plot_bgcolor": "@paper",
        "font": {"family": _FONT, "size": 13, "color": "@ink"},
        "hoverlabel": {
            "bgcolor": "@paper",
            "bordercolor": "@line",
            "align": "left",
            "font": {"family": _FONT, "size": 12, "color": "@ink"},
        },
        "hovermode": "closest",
        "dragmode": "zoom",
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1,
            "yref": "paper",
            "yanchor": "bottom",
            "bgcolor": "rgba(0,0,0,0)",
            "font": {"size": 12, "color": "@ink"},
            "traceorder": "reversed",
        },
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "@line", "activecolor": "@ink"},
    } | more


def front_figure(view: FrontView) -> Figure:
    """Draws one view of the front: trials, verified front, limits, and the strips beneath.

    Traces of trials carry `meta: "trial"`; each trial is exactly one point of one of them.
    """
    count = len(view.strips)
    inner = _PLOT + (_UNDER + count * (_STRIP + _GAP) if count else 0)
    bottom = 12 if count else _BOTTOM
    height = inner + _TOP + bottom
    floor = (inner - _PLOT) / inner
    layout = _layout(
        height,
        xaxis=_axis(view.x_title, anchor="y", **_ranged(view.x_range, view.log_x, view.x)),
        yaxis=_axis(view.y_title, domain=[floor, 1], **_ranged(view.y_range, False, view.y)),
        shapes=[shape for limit in view.limits for shape in _limit_shapes(limit, floor)],
        annotations=[_limit_text(limit, view) for limit in view.limits],
    )
    layout["margin"]["b"] = bottom
    names = _NAMES if view.limited else _NAMES | {"inside": "Trial"}
    traces = [_trials(name, names[name], points) for name, points in view.groups]
    traces += _verified(view)
    for index, strip in enumerate(view.strips):
        top = floor - (_UNDER + _GAP + index * (_STRIP + _GAP)) / inner
        traces.append(_strip_trace(strip, index))
        _add_strip(layout, strip, index, top, _STRIP / inner)
    return {"data": traces, "layout": layout, "views": _zooms(view)}


def _ranged(ends: Range, log: bool, metric: str) -> dict[str, Any]:
    if log:
        return {"type": "log", "range": [math.log10(end) for end in ends], "dtick": "D2", "tickformat": ",~g"}
    form = ".1~%" if metric == "top1" and ends[1] < 1.2 else None
    return {"range": list(ends), **({"tickformat": form} if form else {})}


def _zooms(view: FrontView) -> dict[str, Any] | None:
    """Returns the axis ranges of the two buttons, all trials and the front."""
    if view.zoom is None:
        return None
    scale = math.log10 if view.log_x else float
    both = {"all": (view.x_range, view.y_range), "front": view.zoom}
    return {
        name: {"xaxis.range": [scale(end) for end in xs], "yaxis.range": list(ys)} for name, (xs, ys) in both.items()
    }


def _bars(values: Sequence[float], ends: Sequence[Range], color: str, thickness: float, width: int) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(high - value, 0.0) for value, (_, high) in zip(values, ends, strict=True)],
        "arrayminus": [max(value - low, 0.0) for value, (low, _) in zip(values, ends, strict=True)],
        "color": color,
        "thickness": thickness,
        "width": width,
    }


def _scatter(points: Sequence[Point], color: str, thickness: float, cap: int) -> dict[str, Any]:
    xs, ys = [point.x for point in points], [point.y for point in points]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": xs,
        "y": ys,
        "customdata": [point.key for point in points],
        "hovertemplate": "%{text}<extra></extra>",
        "error_x": _bars(xs, [point.x_ends for point in points], color, thickness, cap),
        "error_y": _bars(ys, [point.y_ends for point in points], color, thickness, cap),
    }


def _symbols(name: str, points: Iterable[Point]) -> list[str]:
    """Filled when measured, hollow when predicted; a thin cross has no inside, so it becomes a hollow circle."""
    hollow = "circle-open" if name.endswith("thin") else f"{name}-open"
    return [name if point.measured else hollow for point in points]


def _trials(name: Group, title: str, points: Sequence[Point]) -> dict[str, Any]:
    accent = name == "front"
    symbols = _symbols(_SYMBOLS[name], points)
    return _scatter(points, "@front" if accent else "@bars", 1.4 if accent else 1, 0) | {
        "name": title,
        "meta": "trial",
        "marker": {
            "symbol": symbols,
            "size": 10 if accent else 7,
            "color": f"@{name}",
            "line": {"width": 1.4, "color": f"@{name}"},
        },
    }


def _verified(view: FrontView) -> list[dict[str, Any]]:
    traces: list[dict[str, Any]] = []
    if len(view.stairs) > 1:
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [x for x, _ in view.stairs],
                "y": [y for _, y in view.stairs],
                "line": {"color": "@front", "width": 1.6, "shape": "hv"},
                "hoverinfo": "skip",
                "showlegend": False,
            }
        )
    if view.verified:
        traces.append(
            _scatter(view.verified, "@front", 1.6, 4)
            | {
                "name": "Verified front" if view.trained else "Front",
                "meta": "verified",
                "marker": {
                    "symbol": _symbols("circle", view.verified),
                    "size": 12,
                    "color": "@front",
                    "line": {"width": 1.5, "color": "@paper"},
                },
            }
        )
    return traces


def _limit_shapes(limit: LimitLine, floor: float) -> list[dict[str, Any]]:
    """Returns the dashed line of a limit and the shade over the side that breaks it."""
    far = limit.bound + max(abs(limit.bound), 1.0) * (1e3 if limit.above else -1e3)
    if limit.axis == "x" and not limit.above and limit.bound > 0:
        far = limit.bound / 1e6  # stays on a logarithmic axis
    if limit.axis == "x":
        across, frame = {"x0": limit.bound, "x1": far}, {"xref": "x", "yref": "paper", "y0": floor, "y1": 1}
        line = {"x0": limit.bound, "x1": limit.bound}
    else:
        across, frame = {"y0": limit.bound, "y1": far}, {"yref": "y", "xref": "paper", "x0": 0, "x1": 1}
        line = {"y0": limit.bound, "y1": limit.bound}
    return [
        {"type": "rect", "layer": "below", "fillcolor": "@shade", "line": {"width": 0}, **frame, **across},
        {"type": "line", "line": {"color": "@limit", "width": 1.5, "dash": "dash"}, **frame, **line},
    ]


def _limit_text(limit: LimitLine, view: FrontView) -> dict[str, Any]:
    text = {"text": limit.text, "showarrow": False, "font": {"size": 12, "color": "@limit"}, "bgcolor": "@paper"}
    if limit.axis == "y":
        return text | {"xref": "paper", "x": 1, "xanchor": "right", "yref": "y", "y": limit.bound, "yanchor": "middle"}
    x = math.log10(limit.bound) if view.log_x else limit.bound
    return text | {"xref": "x", "x": x, "xanchor": "center", "yref": "paper", "y": 1, "yanchor": "top"}


def _strip_trace(strip: Strip, index: int) -> dict[str, Any]:
    symbol, color = _STRIP_SYMBOLS[strip.name]
    wide = {"size": 14, "line": {"width": 1.6, "color": color}} if symbol == "line-ns" else {"size": 8}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": strip.title,
        "meta": "trial",
        "showlegend": False,
        "cliponaxis": True,
        "x": list(strip.places),
        "y": [0.0] * len(strip.keys),
        "xaxis": "x" if strip.name == "no_y" else "x2",
        "yaxis": f"y{index + 2}",
        "customdata": list(strip.keys),
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"symbol": symbol, "color": color, "opacity": 0.85, **wide},
    }


def _add_strip(layout: dict[str, Any], strip: Strip, index: int, top: float, height: float) -> None:
    """Adds the axis, the band and the title of one strip to the layout."""
    bottom = max(top - height, 0.0)
    hidden = {"visible": False, "fixedrange": True}
    layout[f"yaxis{index + 2}"] = {"domain": [bottom, top], "range": [-1, 1], "anchor": "x", **hidden}
    if strip.name != "no_y":
        layout["xaxis2"] = {"range": [0, 1], "domain": [0, 1], "anchor": f"y{index + 2}", **hidden}
    band = {"xref": "paper", "yref": "paper", "x0": 0, "x1": 1, "y0": bottom, "y1": top}
    layout["shapes"].append({"type": "rect", "layer": "below", "fillcolor": "@strip", "line": {"width": 0}, **band})
    layout["annotations"].append(
        {
            "text": strip.title,
            "showarrow": False,
            "font": {"size": 12, "color": "@soft"},
            **{"xref": "paper", "x": 0, "xanchor": "left", "yref": "paper", "y": top, "yanchor": "bottom"},
        }
    )


def progress_figure(info: Progress) -> Figure:
    """Draws the curve of progress."""
    trace = {
        "type": "scatter",
        "mode": "lines",
        "x": list(info.numbers),
        "y": list(info.values),
        "line": {"color": "@front", "width": 2, "shape": "hv"},
        "hovertemplate": "trial %{x}: %{y:.4f}<extra></extra>",
        "showlegend": False,
    }
    layout = _layout(300, xaxis=_axis("Trial"), yaxis=_axis(info.y_title, rangemode="normal"))
    layout["margin"] = layout["margin"] | {"t": 32}
    return {"data": [trace], "layout": layout}


def agreement_figure(info: Agreement) -> Figure:
    """Draws predictions over measurements, the line where both agree, and the band of 10 % around it."""
    ends = [end for pair in info.pairs for end in (pair.measured, pair.predicted)]
    low, high = max(min(ends) * 0.85, 1e-12), max(ends) * 1.15
    log = high / low > 10
    points = [
        Point(pair.key, pair.measured, pair.predicted, pair.measured_ends, pair.predicted_ends, False)
        for pair in info.pairs
    ]
    line = {"type": "scatter", "mode": "lines", "hoverinfo": "skip"}
    band = {"x": [low, high, high, low], "y": [low * 1.1, high * 1.1, high * 0.9, low * 0.9]}
    data = [
        line | band | {"fill": "toself", "fillcolor": "@strip", "line": {"width": 0}, "name": "within 10 %"},
        line | {"x": [low, high], "y": [low, high], "name": "equal", "line": {"color": "@line", "dash": "dash"}},
        _scatter(points, "@bars", 1.2, 3)
        | {
            "name": "network",
            "marker": {"symbol": "circle-open", "size": 9, "color": "@front", "line": {"width": 1.6}},
        },
    ]
    scale = {"type": "log", "dtick": "D2"} if log else {}
    shown = [math.log10(low), math.log10(high)] if log else [low, high]
    title = axis_title(info.metric)
    name = title[:1].lower() + title[1:]
    layout = _layout(
        380,
        xaxis=_axis(f"Measured {name}", range=shown, **scale),
        yaxis=_axis(f"Predicted {name}", range=shown, **scale),
    )
    return {"data": data, "layout": layout}
