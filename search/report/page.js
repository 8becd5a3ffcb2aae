"use strict";
(() => {
  const data = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 640px)");
  const boxes = [...document.querySelectorAll("[data-figure]")];
  const front = boxes[0];
  const zoom = document.getElementById("zoom");
  let printing = false;
  let zoomed = "all";

  // Colours are names of the palette; everything else stays as it is.
  const coloured = (node, palette) => {
    if (typeof node === "string") return Object.hasOwn(palette, node) ? palette[node] : node;
    if (Array.isArray(node)) return node.map((item) => coloured(item, palette));
    if (node && typeof node === "object") {
      return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, coloured(value, palette)]));
    }
    return node;
  };

  const draw = (box) => {
    const figure = data.figures[box.dataset.figure];
    const palette = data.palettes[dark.matches && !printing ? "dark" : "light"];
    const traces = coloured(figure.data, palette).map((trace) => {
      if (trace.customdata) trace.text = trace.customdata.map((key) => data.hovers[key] || "");
      return trace;
    });
    const layout = coloured(figure.layout, palette);
    layout.uirevision = box.dataset.figure; // a new theme keeps what the reader dragged
    if (box === front && zoomed === "front" && figure.views) {
      layout.xaxis.range = [...figure.views.front["xaxis.range"]];
      layout.yaxis.range = [...figure.views.front["yaxis.range"]];
    }
    if (narrow.matches) {
      layout.margin = { ...layout.margin, l: 48, r: 6 };
      layout.dragmode = false;
    }
    return Plotly.react(box, traces, layout, { ...data.config, displayModeBar: !narrow.matches });
  };


  const drawAll = () => Promise.all(boxes.map(draw));

  const press = (name) => {
    zoomed = name;
    for (const button of zoom.children) button.setAttribute("aria-pressed", String(button.dataset.zoom === name));
  };

  for (const button of zoom.children) {
    button.addEventListener("click", () => {
      const ranges = data.figures[front.dataset.figure].views;
      press(button.dataset.zoom);
      Plotly.relayout(front, structuredClone(ranges[button.dataset.zoom]));
    });
  }

  const view = document.getElementById("view");
  if (view) {
    view.addEventListener("change", () => {
      front.dataset.figure = view.value;
      zoom.hidden = !data.figures[view.value].views;
      for (const text of document.querySelectorAll("[data-view]")) text.hidden = text.dataset.view !== view.value;
      press("all");
      Plotly.purge(front);
      draw(front);
    });
  }

  const valueOf = (row, column) => {
    const cell = row.cells[column];
    const value = Number.parseFloat(cell.dataset.value);
    return column === 0 ? cell.textContent : value;
  };

  for (const button of document.querySelectorAll("table.sortable thead button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const column = head.cellIndex;
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = head.closest("table").tBodies[0];
      const missing = (value) => typeof value === "number" && Number.isNaN(value);
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [valueOf(a, column), valueOf(b, column)];
        if (missing(x) || missing(y)) return missing(x) - missing(y);
        return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
      });
      body.append(...rows);
    });
  }

  dark.addEventListener("change", drawAll);
  narrow.addEventListener("change", drawAll);
  addEventListener("beforeprint", () => { printing = true; drawAll(); });
  addEventListener("afterprint", () => { printing = false; drawAll(); });
  drawAll().then(() => document.body.classList.add("drawn"));
})();
