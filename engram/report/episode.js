"use strict";
// What an agent did in one episode of an environment.

class Episode extends Steps {
  kind = "episode";
  shows = "What the environment shows";

  constructor(memory) {
    super(memory);
    this.walk = memory.scenes.successors ? new Walk(memory.scenes, memory.action) : null;
    this.named = this.walk !== null;
    this.titles = this.walk
      ? ["step that was written, and the edge it taught", "step that reads, and where it is"]
      : ["step that was written", "step that reads"];
    this.returns = memory.reward.map(
      (
        (sum) => (value) =>
          (sum += value)
      )(0),
    );
  }

  get heading() {
    const { memory } = this;
    const where = memory.ended
      ? `${memory.steps} steps, return ${short(this.returns.at(-1), 4)}`
      : `its first ${memory.steps} steps`;
    return `${memory.core} on ${memory.env}, ${splitName(memory.split)}, episode ${memory.episode}: ${where}.`;
  }

  written(t) {
    return this.walk.label(t);
  }

  asks(t) {
    return this.walk.asks(t);
  }

  tick(name, t) {
    return `${name} · ${t}`;
  }

  /** Names where all of them fit, numbers elsewhere. */
  axis(name) {
    const fit = this.named && this.memory.steps <= 40 && !narrow.matches;
    return fit ? this.marks(name, 40) : this.marks(null, narrow.matches ? 10 : 20);
  }

  /** Pixels of the map. */
  height() {
    return narrow.matches ? 400 : this.walk ? 640 : 520;
  }

  legend(past) {
    if (!this.walk) return null;
    return (
      "Filled: the agent. Ring: its goal. Dashed edges were not tried yet. " +
      (past ? "Coloured edges are those that the memory looks back at: the stronger, the wider. " : "") +
      "The halo is the edge it takes now."
    );
  }

  get hasPicture() {
    return this.walk !== null || this.memory.pictures.length > 0;
  }

  picture(t, weights, cells, colours) {
    if (this.walk) return this.walk.draw(t, weights, cells, colours);
    return el("img", { src: this.memory.pictures[t], alt: `the environment before step ${t}` });
  }

  panels() {
    const { memory } = this;
    return [
      { name: "reward", mean: memory.reward, bars: true },
      { name: "value of the baseline", mean: memory.value },
      { name: "entropy of the action, nats", mean: memory.entropy },
    ];
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
    return [...said, ...this.most(weights)];
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
