"use strict";
// What an agent did in one episode: charts over its steps, and each step in words.

const TRACES = {
  write_strength: "write strength",
  memory_norm: "norm of the memory",
  beta: "beta, strength of a write",
  rate: "rate of learning",
};

class Episode {
  /** `walk` is that of a graph, or null. */
  constructor(memory, walk) {
    Object.assign(this, { memory, walk });
    this.returns = memory.reward.map(
      (
        (sum) => (value) =>
          (sum += value)
      )(0),
    );
  }

  /** Charts of what the agent got, expected and wrote, one below the other, with a line at a step. */
  traces(step, colours) {
    const { memory } = this,
      steps = memory.reward.map((_, i) => i);
    const line = (name, unit, mean, more = []) => ({ name, unit, mean, more });
    const panels = [
      line("reward", "", memory.reward),
      line("value of the baseline", "", memory.value),
      line("entropy of the action", "nats", memory.entropy),
    ];
    for (const [name, { count, mean, low, high }] of Object.entries(memory.traces)) {
      const title = TRACES[name] ?? name.replaceAll("_", " ");
      panels.push(
        count > 1 ? line(`${title}, mean and range of ${count}`, "", mean, [low, high]) : line(title, "", mean),
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
        title: { text: "step of the episode" },
        anchor: `y${panels.length > 1 ? panels.length : ""}`,
        range: [-0.5, memory.steps - 0.5],
      },
    };
    const traces = panels.flatMap(({ name, unit, mean, more: [low, high] }, i) => {
      const axis = `y${i ? i + 1 : ""}`,
        top = 1 - i / panels.length,
        colour = colours.lines[i % colours.lines.length];
      layout[`yaxis${i ? i + 1 : ""}`] = {
        domain: [top - 0.72 / panels.length, top - 0.06 / panels.length],
        nticks: 4,
        zeroline: true,
      };
      layout.annotations.push({
        text: name + (unit ? `, ${unit}` : ""),
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
      if (i === 0) return [{ ...base, type: "bar", y: mean, marker: { color: colour } }];
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

  sentences(t, weights) {
    const { memory, walk } = this,
      probability = this.probability(t);
    const said = [];
    if (walk) said.push(`The agent is in ${walk.agent[t]}, its goal is ${walk.goal[t]}.`);
    const chance = probability === null ? "" : ` (probability ${short(probability, 2)})`;
    const led = walk ? this.led(t) : "";
    said.push(
      `Action ${memory.action[t]}${chance}${led}, reward ${short(memory.reward[t])}; return so far ${short(this.returns[t], 4)}, value ${short(memory.value[t])}.`,
    );
    if (memory.events[t].length)
      said.push(`After it: ${memory.events[t].map((name) => name.replaceAll("_", " ")).join(", ")}.`);
    const most = weights
      .map((weight, s) => [weight, s])
      .filter(([weight]) => Math.abs(weight) > 1e-6)
      .sort(([a], [b]) => Math.abs(b) - Math.abs(a))
      .slice(0, 4);
    if (most.length) {
      said.push("Memory looks back most at:");
      for (const [weight, s] of most) said.push(`  step ${s}${walk ? ` (${walk.label(s)})` : ""}: ${short(weight)}`);
    }
    return said;
  }

  probability(t) {
    return this.memory.probability?.[t] ?? null;
  }

  led(t) {
    const to = this.walk.successors[this.walk.agent[t]][this.memory.action[t]];
    return to < 0 ? " is not possible there" : ` leads to ${to}`;
  }

  /** The episode as a table: its head, and a row for each step. */
  table() {
    const { memory, walk } = this;
    const head = [
      "step",
      ...(walk ? ["agent", "goal"] : []),
      "action",
      "probability",
      "reward",
      "return",
      "value",
      "entropy",
      "what followed",
    ];
    const rows = memory.reward.map((reward, t) => [
      t,
      ...(walk ? [walk.agent[t], walk.goal[t]] : []),
      String(memory.action[t]),
      this.probability(t),
      reward,
      this.returns[t],
      memory.value[t],
      memory.entropy[t],
      memory.events[t].map((name) => name.replaceAll("_", " ")).join(", "),
    ]);
    return [head, rows];
  }
}
