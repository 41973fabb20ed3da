"use strict";
// What a memory went through, step by step: an episode or a sentence, as charts, words and a table.

const TRACES = {
  write_strength: "write strength",
  memory_norm: "norm of the memory",
  beta: "beta, strength of a write",
  rate: "rate of learning",
};

/**
 * Base of both. They add `kind`, `heading`, the `titles` of the axes of a map, its `height()` and the `axis` of its
 * steps, a `legend`, the `panels()` of charts, `sentences` about a step and a `table()`. Where steps have names these
 * are `written(t)`, what step t taught the memory, and `asks(t)`, what it is asked there; `tick` marks an axis by one.
 * With `hasPicture`, `picture(t, weights, cells, colours)` draws step t; `weights` [T] say how much a past step counts.
 */
class Steps {
  named = false;
  shows = null; // title of the picture beside the map; without one it stands above, at the slider

  constructor(memory) {
    this.memory = memory;
  }

  /** Step at which a page begins. */
  get first() {
    return this.memory.steps - 1;
  }

  /** The step and its name. */
  said(t) {
    return `step ${t}${this.named ? ` (${this.written(t)})` : ""}`;
  }

  /** The past steps that count most, in words. */
  most(weights) {
    const most = weights
      .map((weight, s) => [weight, s])
      .filter(([weight]) => Math.abs(weight) > 1e-6)
      .sort(([a], [b]) => Math.abs(b) - Math.abs(a))
      .slice(0, 4);
    return most.length
      ? ["Memory looks back most at:", ...most.map(([weight, s]) => `  ${this.said(s)}: ${short(weight)}`)]
      : [];
  }

  /** Marks of an axis of steps, as many as there is room for; numbers where `name` is null. */
  marks(name, room) {
    const count = this.memory.steps,
      every = [1, 2, 5, 10, 20, 50].find((gap) => count / gap <= room) ?? 100;
    const at = Array.from({ length: count }, (_, i) => i).filter((i) => i % every === 0);
    const ticktext = at.map((i) => (name ? this.tick(name(i), i) : String(i)));
    return { tickvals: at, ticktext, tickfont: { size: 10 } };
  }

  /** Charts of the panels, and of what the memory reports, one below the other, with a line at a step. */
  traces(step, colours) {
    const { memory } = this,
      steps = Array.from({ length: memory.steps }, (_, i) => i);
    const panels = this.panels();
    for (const [name, { count, mean, low, high }] of Object.entries(memory.traces)) {
      const title = TRACES[name] ?? name.replaceAll("_", " ");
      panels.push(
        count > 1 ? { name: `${title}, mean and range of ${count}`, mean, range: [low, high] } : { name: title, mean },
      );
    }
    const layout = {
      height: 50 + 96 * panels.length,
      hovermode: "x",
      dragmode: false,
      showlegend: false,
      annotations: [],
      shapes: [this.now(step, colours)],
      xaxis: {
        title: { text: `step of the ${this.kind}` },
        anchor: `y${panels.length > 1 ? panels.length : ""}`,
        range: [-0.5, memory.steps - 0.5],
      },
    };
    const traces = panels.flatMap(({ name, mean, range: [low, high] = [], bars }, i) => {
      const axis = `y${i ? i + 1 : ""}`,
        top = 1 - i / panels.length,
        colour = colours.lines[i % colours.lines.length];
      layout[`yaxis${i ? i + 1 : ""}`] = {
        domain: [top - 0.72 / panels.length, top - 0.06 / panels.length],
        nticks: 4,
        zeroline: true,
      };
      layout.annotations.push({
        text: name,
        xref: "paper",
        x: 0,
        yref: "paper",
        y: top + 0.015,
        showarrow: false,
        xanchor: "left",
        yanchor: "middle",
        font: { size: 12, color: colours.muted },
      });
      const base = { x: steps, yaxis: axis, name, hovertemplate: "%{y:.4g}<extra></extra>" };
      if (bars) return [{ ...base, type: "bar", y: mean, marker: { color: colour } }];
      const edge = { ...base, mode: "lines", line: { width: 0 }, hoverinfo: "skip", hovertemplate: undefined };
      const band = low
        ? [
            { ...edge, y: low },
            { ...edge, y: high, fill: "tonexty", fillcolor: faint(colour, 0.2) },
          ]
        : [];
      return [...band, { ...base, mode: "lines", y: mean, line: { color: colour, width: 1.8 } }];
    });
    return { traces, layout };
  }

  now(step, colours) {
    return {
      type: "line",
      xref: "x",
      x0: step,
      x1: step,
      yref: "paper",
      y0: 0,
      y1: 1,
      line: { color: colours.accent, width: 1.5 },
    };
  }
}
