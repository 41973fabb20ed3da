"use strict";
// A graph that an agent walks: what it has tried so far, and how much its memory looks back at what each edge taught.

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

class Walk {
  /** `scenes`: successors [T + 1][S][A], agent [T + 1] and goal [T + 1]; `action` [T]. */
  constructor({ successors, agent, goal }, action) {
    [this.successors] = successors;
    Object.assign(this, { agent, goal, action });
    this.size = this.successors.length;
  }

  /** What the agent could learn when it came to step t: where the action before led. */
  taught(t) {
    if (t === 0) return null;
    const from = this.agent[t - 1],
      action = this.action[t - 1];
    return { from, action, to: this.successors[from][action] };
  }

  /** The same in words, for an axis and for a sentence. */
  label(t) {
    const edge = this.taught(t);
    return edge === null
      ? "start"
      : edge.to < 0
        ? `${edge.from} –${edge.action}✕`
        : `${edge.from} –${edge.action}→ ${edge.to}`;
  }

  asks(t) {
    return `in ${this.agent[t]}, goal ${this.goal[t]}`;
  }

  /** The picture at step t; `weights` [T] say how much a past step counts, `colours` how to show it. */
  draw(t, weights, cells, colours) {
    const size = 380,
      centre = size / 2,
      radius = 138,
      small = this.size > 12;
    const node = Math.min(24, (0.42 * Math.PI * radius) / this.size);
    const place = (state) => {
      const angle = (2 * Math.PI * state) / this.size - Math.PI / 2;
      return [centre + radius * Math.cos(angle), centre + radius * Math.sin(angle)];
    };
    const canvas = svg("svg", {
      viewBox: `0 0 ${size} ${size}`,
      role: "img",
      "aria-label": `graph at step ${t}: ${this.asks(t)}`,
    });
    const markers = svg("defs", {});
    canvas.append(markers);
    const edges = new Map();
    this.successors.forEach((row, from) =>
      row.forEach((to, action) => {
        if (to >= 0) {
          const key = `${from},${to}`;
          if (!edges.has(key)) edges.set(key, { from, to, actions: [], weight: 0, tried: false });
          edges.get(key).actions.push(action);
        }
      }),
    );
    for (let s = 1; s <= t; s++) {
      const { from, to } = this.taught(s);
      const edge = edges.get(`${from},${to}`);
      if (!edge) continue;
      edge.tried = true;
      if (Math.abs(weights[s]) > Math.abs(edge.weight)) edge.weight = weights[s];
    }
    const most = Math.max(...weights.slice(0, t + 1).map(Math.abs), 1e-9);
    const chosen = t < this.action.length ? `${this.agent[t]},${this.successors[this.agent[t]][this.action[t]]}` : "";
    const order = [...edges].sort(([, a], [, b]) => a.tried - b.tried || Math.abs(a.weight) - Math.abs(b.weight));
    const labels = [];
    for (const [key, edge] of order) {
      const [x1, y1] = place(edge.from),
        [x2, y2] = place(edge.to);
      const length = Math.hypot(x2 - x1, y2 - y1),
        [dx, dy] = [(x2 - x1) / length, (y2 - y1) / length];
      const bend = 0.14 * length,
        [mx, my] = [(x1 + x2) / 2 - dy * bend, (y1 + y2) / 2 + dx * bend];
      const toward = (px, py, qx, qy, by) => {
        const far = Math.hypot(qx - px, qy - py);
        return [px + ((qx - px) * by) / far, py + ((qy - py) * by) / far];
      };
      const share = Math.abs(edge.weight) / most,
        width = edge.tried ? 1.6 + 4.4 * share : 1.1;
      const colour = !edge.tried
        ? colours.line
        : share > 0.02
          ? colourOf(Math.sign(edge.weight) * (0.35 + 0.65 * share), cells)
          : colours.muted;
      const head = 7 + 1.1 * width;
      const [sx, sy] = toward(x1, y1, mx, my, node),
        [tip, tipY] = toward(x2, y2, mx, my, node + 1);
      const [ex, ey] = toward(x2, y2, mx, my, node + 1 + 0.8 * head);
      const line = svg("path", {
        d: `M${sx} ${sy} Q${mx} ${my} ${ex} ${ey}`,
        fill: "none",
        stroke: colour,
        "stroke-width": width,
        "stroke-dasharray": edge.tried ? "" : "3 4",
        "data-edge": key,
        "data-weight": edge.weight,
      });
      const [ax, ay] = [(tip - ex) / (0.8 * head), (tipY - ey) / (0.8 * head)],
        half = 0.42 * head;
      const arrow = svg("path", {
        d: `M${tip} ${tipY} L${ex - ay * half} ${ey + ax * half} L${ex + ay * half} ${ey - ax * half} Z`,
        fill: colour,
      });
      if (key === chosen)
        canvas.append(
          svg("path", {
            d: `M${sx} ${sy} Q${mx} ${my} ${ex} ${ey}`,
            fill: "none",
            stroke: colours.accent,
            "stroke-width": width + 5,
            opacity: 0.45,
            "stroke-linecap": "round",
          }),
        );
      canvas.append(line, arrow);
      const at = 0.36,
        mid = (a, b, c) => (1 - at) ** 2 * a + 2 * at * (1 - at) * b + at ** 2 * c;
      if (!small)
        labels.push(
          svg(
            "text",
            { x: mid(sx, mx, ex), y: mid(sy, my, ey), class: "action", opacity: edge.tried ? 1 : 0.55 },
            edge.actions.join(","),
          ),
        );
    }
    canvas.append(...labels);
    for (let state = 0; state < this.size; state++) {
      const [x, y] = place(state),
        here = state === this.agent[t],
        wanted = state === this.goal[t];
      if (wanted)
        canvas.append(
          svg("circle", {
            cx: x,
            cy: y,
            r: node + 6,
            fill: "none",
            stroke: colours.goal,
            "stroke-width": 5,
            "data-goal": state,
          }),
        );
      canvas.append(
        svg("circle", {
          cx: x,
          cy: y,
          r: node,
          fill: here ? colours.agent : colours.panel,
          stroke: here ? colours.agent : colours.muted,
          "stroke-width": 1.5,
          ...(here ? { "data-agent": state } : {}),
        }),
      );
      const number = svg("text", { x, y, class: "inside" }, state);
      if (here) number.style.fill = colours.paper;
      canvas.append(number);
    }
    return canvas;
  }
}
