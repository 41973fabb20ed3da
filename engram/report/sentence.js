"use strict";
// What a model read in one sentence, and what it answered.

const LINE = 9; // pixels that a word takes on an axis, at least
const AROUND = 130; // pixels of a map that are no cells
const LONG = 24; // letters of an answer that is not shown among the words
const MARKS = { right: " ✓", wrong: " ✗", open: "" };

class Sentence extends Steps {
  kind = "sentence";
  named = true;
  hasPicture = true;
  titles = ["word at which memory was written", "word at which memory is read"];

  constructor(memory) {
    super(memory);
    this.answers = new Map(memory.answers.map((answer) => [answer.step, answer]));
    this.inline = this.answers.size < memory.steps;
    this.known = memory.answers.some((answer) => answer.right !== null);
  }

  get first() {
    return this.memory.answers.at(-1)?.step ?? super.first;
  }

  get heading() {
    const { core, task, updates, example, part, steps, left_out, answers } = this.memory;
    const which = example === null ? "a sentence" : `test example ${example}`;
    const right = answers.filter((answer) => answer.said === answer.right).length;
    const length = left_out ? `its last ${steps} of ${steps + left_out} steps` : `${steps} steps`;
    const found = this.known ? `, ${right} of ${answers.length} answers right` : "";
    const of = `${core} on ${task} after ${updates.toLocaleString("en")} updates`;
    return `${of}, ${which}${part ? ` (${part})` : ""}: ${length}${found}.`;
  }

  written(t) {
    return this.memory.words[t];
  }

  asks(t) {
    return this.memory.words[t];
  }

  tick(name) {
    return name;
  }

  /** Pixels of the map, as many as its words take. */
  height() {
    const [least, most] = narrow.matches ? [320, 560] : [420, 1300];
    return Math.min(most, Math.max(least, AROUND + (LINE + 3) * this.memory.steps));
  }

  axis(name, vertical, width) {
    const room = (vertical ? this.height() : width) - AROUND,
      marks = this.marks(name, room / LINE);
    return { ...marks, tickfont: { size: Math.min(10, Math.max(8, room / marks.tickvals.length - 1)) } };
  }

  legend(past) {
    const looks = past ? "; the stronger the colour of another, the more the memory looks back at it there" : "";
    const answered = this.inline
      ? "Words in bold are answered: ✓ right, ✗ wrong."
      : "Every word is answered; those answered wrong are underlined.";
    return `The framed word is read now${looks}. ${this.answers.size ? `${answered} ` : ""}Touch a word to go there.`;
  }

  /** The words; those that the memory looks back at are coloured. */
  picture(t, weights, cells, colours) {
    this.words ??= this.write();
    const most = Math.max(...weights.map(Math.abs), 1e-9);
    this.words.forEach((word, s) => {
      const share = weights[s] / most,
        colour = Math.abs(share) > 0.02 ? colourOf(share, cells) : "";
      word.dataset.weight = weights[s];
      word.style.background = colour;
      word.style.color = colour && readable(colour, colours);
      word.classList.toggle("now", s === t);
    });
    requestAnimationFrame(() => {
      const { text } = this; // which may be too long to be shown as a whole
      text.scrollTop = this.words[t].offsetTop - text.offsetTop - text.clientHeight / 2;
    });
    return this.text;
  }

  /** The words on the page, answers behind them unless every word has one. */
  write() {
    this.text = el("p", { id: "sentence", class: this.inline && "inline" });
    return this.memory.words.map((word, s) => {
      const answer = this.answers.get(s),
        verdict = answer ? this.verdict(answer) : "";
      const made = el("span", { class: answer ? `word asked ${verdict}` : "word", "data-word": s }, word);
      const said = answer?.said.length <= LONG ? `→ ${answer.said}` : "→";
      const shown = answer && this.inline ? el("span", { class: "answer" }, ` ${said}${MARKS[verdict]}`) : null;
      this.text.append(el("span", { class: "together" }, made, shown), " ");
      return made;
    });
  }

  verdict({ said, right }) {
    return right === null ? "open" : said === right ? "right" : "wrong";
  }

  panels() {
    const { memory, known } = this;
    const of = (answer) => (known ? answer?.right_probability : answer?.probability) ?? null;
    return [
      {
        name: known ? "probability of the right answer" : "probability of the answer",
        mean: memory.words.map((_, t) => of(this.answers.get(t))),
        bars: true,
      },
    ];
  }

  sentences(t, weights, series) {
    const answer = this.answers.get(t),
      said = [`Step ${t} reads “${this.memory.words[t]}”.`];
    if (answer) {
      const { right, right_probability } = answer;
      said.push(
        `It answers “${answer.said}” (probability ${short(answer.probability, 3)})` +
          {
            open: ".",
            right: ", which is right.",
            wrong: `; right is “${right}” (probability ${short(right_probability, 3)}).`,
          }[this.verdict(answer)],
      );
    }
    if (series.length > 1)
      said.push(`One read after the other finds ${series.map((s) => this.said(s)).join(", then ")}.`);
    return [...said, ...this.most(weights)];
  }

  /** The sentence as a table: its head, and a row for each step. */
  table() {
    const head = ["step", "word", "answer", "probability", "right answer", "its probability"];
    const rows = this.memory.words.map((word, t) => {
      const { said, probability, right, right_probability } = this.answers.get(t) ?? {};
      return [t, word, said ?? null, probability ?? null, right ?? null, right_probability ?? null];
    });
    return [head, rows];
  }
}
