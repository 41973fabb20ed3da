"use strict";
// Maps of a memory as charts: all steps, and below them the row of one.

const MANY = 60;
const WORDY = 200;
// Each of these starts from what the one before has found: the last is what the agent uses.
const SERIAL = ["read", "inner_step"];

class Heatmaps {
  /** `steps` are what the memory went through; `go` shows a step everywhere. */
  constructor(steps, maps, go) {
    Object.assign(this, { steps, maps, go, step: steps.first, chosen: {} });
    [this.name] = Object.keys(maps);
    this.controls = el("div", { class: "controls" });
    this.meaning = el("p", { class: "quiet" });
    this.mapNode = el("div", { class: "chart", "data-chart": "map" });
    this.rowNode = el("div", { class: "chart", "data-chart": "row" });
    this.rowTitle = el("h3", {});
    this.choose();
  }

  get map() {
    return this.maps[this.name];
  }

  /** Whether the columns are steps. */
  get past() {
    return this.map.axes.at(-1) === "past";
  }

  /** How much each step counts at the present one, [T]. */
  get weights() {
    return this.past ? this.cells[this.step] : this.cells.map(() => 0);
  }

  /** The steps that count most in reads which start from one another, at the present step. */
  get series() {
    if (!this.past || !SERIAL.includes(this.map.axes.at(-2)) || this.chosen.chain === MEAN) return [];
    return this.planes.map((rows) => {
      const sizes = rows[this.step].map(Math.abs);
      return sizes.indexOf(Math.max(...sizes));
    });
  }

  /** Draw, once the nodes are on the page. */
  draw() {
    chart(this.mapNode, (colours) => this.drawMap(colours));
    chart(this.rowNode, (colours) => this.drawRow(colours));
    listen(
      this.mapNode,
      (point) => point.y,
      (t) => t !== this.step && this.go(t),
    );
  }

  /** Show step t. */
  show(t) {
    this.step = t;
    Plotly.relayout(this.mapNode, { "shapes[0].y0": t - 0.5, "shapes[0].y1": t + 0.5 });
    this.rowNode.redraw();
  }

  /** The choices above the map. */
  choose() {
    const names = Object.keys(this.maps).map((name) => [name, name.replaceAll("_", " ")]);
    const rebuild = () => {
      this.choose();
      this.mapNode.redraw();
      this.go(this.step);
    };
    const parts = [];
    if (names.length > 1)
      parts.push(
        choice("map", names, this.name, (name) => {
          this.name = name;
          rebuild();
        }),
      );
    for (const axis of this.map.axes.slice(1, -1)) {
      const all = positions(this.map, axis);
      this.chosen[axis] ??= SERIAL.includes(axis) ? String(all.length - 1) : axis === "chain" ? "0" : MEAN;
      const options = [[MEAN, "mean"], ...all.map((text, i) => [String(i), text.replace(`${WORDS[axis]} `, "")])];
      parts.push(
        choice(WORDS[axis] ?? axis, options, this.chosen[axis], (value) => {
          this.chosen[axis] = value;
          rebuild();
        }),
      );
    }
    parts.push(csvButton(`map-${this.name}`, () => this.rows()));
    this.controls.replaceChildren(...parts);
    this.cells = plane(this.map, this.chosen);
    const every = this.cells.flat();
    this.ends = [every.reduce((a, b) => Math.min(a, b), 0), every.reduce((a, b) => Math.max(a, b), 0)];
    this.meaning.textContent = `A cell is the ${this.map.meaning}. Point at a row, or move the slider, to see one step.`;
  }

  rows() {
    const map = this.map,
      head = [...map.axes, "value"],
      rows = [];
    const visit = (at) => {
      if (at.length < map.axes.length) for (let i = 0; i < map.shape[at.length]; i++) visit([...at, i]);
      else rows.push([...at, map.cell(at)]);
    };
    visit([]);
    return [head, rows];
  }

  columns() {
    const axis = this.map.axes.at(-1);
    if (this.past) {
      const marks = this.steps.axis((s) => this.steps.written(s), false, this.mapNode.clientWidth);
      const longest = Math.max(...marks.ticktext.map((text) => text.length));
      return { ...marks, tickangle: longest > 3 ? -90 : 0 };
    }
    return { tickvals: this.cells[0].map((_, i) => i), ticktext: positions(this.map, axis), tickfont: { size: 11 } };
  }

  columnTitle() {
    const axis = this.map.axes.at(-1);
    return this.past ? this.steps.titles[0] : (WORDS[axis] ?? axis);
  }

  heat(rows, ends, colours, extra) {
    const { range, stops } = scale(...ends, colours.kind),
      gap = rows.length <= MANY && rows[0].length <= MANY ? 1 : 0;
    return {
      type: "heatmap",
      z: rows,
      zmin: range[0],
      zmax: range[1],
      colorscale: stops,
      xgap: gap,
      ygap: gap,
      colorbar: { thickness: 10, outlinewidth: 0, tickfont: { size: 10 } },
      ...extra,
    };
  }

  drawMap(colours) {
    const { steps } = this,
      named = (name) => (steps.named ? ` (${name()})` : "");
    const columns = this.columns();
    const text =
      this.cells.length > (steps.named ? WORDY : MANY)
        ? undefined
        : this.cells.map((row, r) =>
            row.map(
              (_, c) =>
                `step ${r}${named(() => steps.asks(r))}<br>` +
                (this.past ? `written at ${c}${named(() => steps.written(c))}` : columns.ticktext[c]),
            ),
          );
    const traces = [
      this.heat(this.cells, this.ends, colours, {
        text,
        hovertemplate: text
          ? "%{text}<br>%{z:.3f}<extra></extra>"
          : "step %{y}, written at %{x}: %{z:.3f}<extra></extra>",
      }),
    ];
    const layout = {
      height: steps.height(),
      dragmode: false,
      xaxis: { ...columns, title: { text: this.columnTitle() }, showgrid: false, zeroline: false },
      yaxis: {
        ...steps.axis((t) => steps.asks(t), true),
        title: { text: steps.titles[1], standoff: 12 },
        autorange: "reversed",
        showgrid: false,
        zeroline: false,
      },
      shapes: [this.mark(colours)],
    };
    return { traces, layout };
  }

  /** The frame around the row of the present step. */
  mark(colours) {
    return {
      type: "rect",
      x0: -0.5,
      x1: this.cells[0].length - 0.5,
      y0: this.step - 0.5,
      y1: this.step + 0.5,
      line: { color: colours.accent, width: 2 },
    };
  }

  /** All positions of the innermost axis at the present step: reads, heads or slots. */
  drawRow(colours) {
    this.rowTitle.textContent = `Step ${this.step} looks back at`;
    const axis = this.map.axes.length > 2 ? this.map.axes.at(-2) : null;
    const places = axis ? positions(this.map, axis) : [""];
    if (this.rowsOf !== this.cells) {
      this.rowsOf = this.cells;
      this.planes = places.map((_, i) => (axis ? plane(this.map, { ...this.chosen, [axis]: String(i) }) : this.cells));
      const every = this.planes.flat(2);
      this.rowEnds = [every.reduce((a, b) => Math.min(a, b), 0), every.reduce((a, b) => Math.max(a, b), 0)];
    }
    const rows = this.planes.map((rowsOfPlace) => rowsOfPlace[this.step]);
    const traces = [
      this.heat(rows, this.rowEnds, colours, {
        y: places.map((_, i) => i),
        showscale: rows.length > 2,
        hovertemplate: "%{y} · %{x}: %{z:.3f}<extra></extra>",
      }),
    ];
    const layout = {
      height: (narrow.matches || !this.steps.named ? 90 : 160) + 28 * rows.length,
      dragmode: false,
      hovermode: "closest",
      xaxis: { ...this.columns(), title: { text: this.columnTitle() }, showgrid: false, zeroline: false },
      yaxis: {
        tickvals: places.map((_, i) => i),
        ticktext: places,
        autorange: "reversed",
        showgrid: false,
        zeroline: false,
      },
    };
    return { traces, layout };
  }
}

/** Pointing at a chart, or touching it, calls `go` with the step that `stepOf` finds there. */
function listen(node, stepOf, go) {
  const point = (event) => {
    const step = Math.round(stepOf(event.points[0]));
    requestAnimationFrame(() => go(step));
  };
  node.on("plotly_hover", point);
  node.on("plotly_click", point);
}
