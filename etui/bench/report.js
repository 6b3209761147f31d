"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const byId = (id) => document.getElementById(id);
  const make = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined && text !== null) made.textContent = text;
    return made;
  };
  const legend = read("legend");
  const LETTERS = "ABCDEFGHIJ";

  // Subjects: the arm of the bar, and the sort order.
  const list = byId("subject-list");
  if (list) {
    const marks = read("marks");
    const rows = [...list.children];
    let reversed = false;
    const arm = () => (byId("subject-arm") ? Number(byId("subject-arm").value) : 0);
    const own = (row) => marks[row.dataset.at][arm()];
    const lead = (row) => {
      const mine = own(row);
      const others = marks[row.dataset.at].filter((mark, at) => mark && at !== arm());
      if (!mine || !others.length) return -Infinity;
      return mine.value - Math.max(...others.map((mark) => mark.value));
    };
    const orders = {
      accuracy: (a, b) => (own(b) ? own(b).value : -1) - (own(a) ? own(a).value : -1),
      name: () => 0,
      group: (a, b) => a.dataset.group.localeCompare(b.dataset.group),
      questions: (a, b) => b.dataset.questions - a.dataset.questions,
      spread: (a, b) => lead(b) - lead(a),
    };
    const draw = () => {
      const order = orders[byId("subject-sort").value];
      const sorted = rows.slice().sort((a, b) => order(a, b) || a.dataset.name.localeCompare(b.dataset.name));
      if (reversed) sorted.reverse();
      for (const row of sorted) {
        const mark = own(row);
        const track = row.querySelector(".track");
        const colour = mark ? mark.colour : 0;
        track.className = `track big arm-${colour}`;
        track.querySelector("b").style.width = mark ? `${mark.value}%` : "0";
        const interval = track.querySelector("u");
        interval.style.display = mark ? "" : "none";
        if (mark) {
          interval.style.left = `${mark.low}%`;
          interval.style.width = `${mark.high - mark.low}%`;
        }
        for (const dot of track.querySelectorAll("i")) {
          dot.classList.toggle("self", Number(dot.dataset.arm) === arm());
        }
        row.querySelector(".row-text").textContent = mark ? mark.text : "–";
        list.append(row);
      }
    };
    byId("subject-sort").addEventListener("change", draw);
    if (byId("subject-arm")) byId("subject-arm").addEventListener("change", draw);
    byId("subject-reverse").addEventListener("click", () => { reversed = !reversed; draw(); });
    draw();
  }

  // Questions: [subject, row, right, text, choices, answers]; questions_json.py defines an answer.
  const CHOICE = 0, OUTCOME = 1, JOULES = 2, SECONDS = 3, TOKENS = 4, ODDS = 5, TEXT = 6, WAY = 7, ERROR = 8;
  const questions = read("data");
  const haystacks = questions.map((question) => {
    const texts = question[5].map((answer) => (answer && answer[TEXT]) || "");
    return [question[0].replaceAll("_", " "), question[0], question[1], question[3] || "", ...(question[4] || []), ...texts]
      .join("\n").toLowerCase();
  });
  const subjects = byId("by-subject");
  for (const name of new Set(questions.map((question) => question[0]))) {
    const option = make("option", "", name.replaceAll("_", " "));
    option.value = name;
    subjects.append(option);
  }
  const right = (answer) => legend.outcomes[answer[OUTCOME]] === "right";
  const lost = (answer) => answer[OUTCOME] > 1;
  const outcomes = {
    wrong: (answers) => answers.some((answer) => !right(answer)),
    none: (answers) => !answers.some(right),
    all: (answers) => answers.every(right),
    split: (answers) => new Set(answers.map((answer) => answer[CHOICE])).size > 1,
    lost: (answers) => answers.some(lost),
  };
  const total = (question, field) => question[5].reduce((sum, answer) => sum + ((answer && answer[field]) || 0), 0);
  const PAGE = 25;
  let found = [];
  let shown = 0;

  const number = (value, unit) => (value === null ? "–" : `${Number(value).toLocaleString("en", { maximumSignificantDigits: 3 })}${unit}`);
  const chip = (answer, at) => {
    const name = legend.arms[at];
    const outcome = answer ? legend.outcomes[answer[OUTCOME]] : "none";
    const made = make("span", `chip ${outcome} arm-${at % 8}`, answer ? answer[CHOICE] || "–" : "·");
    made.title = answer ? `${name}: ${outcome.replace("_", " ")}` : `${name}: not asked`;
    return made;
  };
  const odds = (values, colour) => {
    const made = make("div", `odds arm-${colour}`);
    values.forEach((value, at) => {
      const bar = make("span", "");
      const fill = make("i", "");
      fill.style.height = `${Math.round(15 * value)}px`;
      bar.title = `${LETTERS[at]}: ${(100 * value).toFixed(1)} %`;
      bar.append(fill, document.createTextNode(LETTERS[at]));
      made.append(bar);
    });
    return made;
  };
  const answerRow = (answer, at) => {
    const row = make("tr");
    const name = make("td", "n");
    const label = make("span", `arm arm-${at % 8}`);
    label.append(make("i"), document.createTextNode(legend.arms[at]));
    name.append(label);
    row.append(name);
    if (!answer) {
      row.append(make("td", "", "not asked"));
      return row;
    }
    const choice = make("td", "n");
    choice.append(chip(answer, at));
    const chances = make("td", "n");
    if (answer[ODDS]) chances.append(odds(answer[ODDS], at % 8));
    row.append(choice, chances, make("td", "n", number(answer[JOULES], " J")), make("td", "n", number(answer[SECONDS], " s")), make("td", "n", answer[TOKENS] ? number(answer[TOKENS], " tokens") : ""));
    const output = make("td", "output");
    if (answer[WAY]) output.append(make("div", "where", answer[WAY]));
    if (answer[ERROR]) output.append(make("div", "where", answer[ERROR]));
    if (answer[TEXT]) output.append(make("pre", "", answer[TEXT]));
    row.append(output);
    return row;
  };
  const inside = (question) => {
    const made = make("div", "inside");
    if (question[4] && question[4].length) {
      const choices = make("ul", "choices");
      question[4].forEach((text, at) => {
        const letter = LETTERS[at];
        const item = make("li", letter === question[2] ? "right" : "");
        item.append(make("b", "", letter), document.createTextNode(text));
        choices.append(item);
      });
      made.append(choices);
    } else {
      made.append(make("p", "where", `right answer: ${question[2]}`));
    }
    const table = make("table", "answers");
    const body = make("tbody");
    question[5].forEach((answer, at) => body.append(answerRow(answer, at)));
    table.append(body);
    const scroll = make("div", "scroll");
    scroll.append(table);
    made.append(scroll);
    return made;
  };
  const card = (question) => {
    const made = make("details", "question");
    const head = make("summary");
    const left = make("div");
    left.append(make("div", "where", `${question[0].replaceAll("_", " ")} · row ${question[1]}`));
    if (question[3]) left.append(make("div", "stem", question[3]));
    const chips = make("div", "chips");
    question[5].forEach((answer, at) => chips.append(chip(answer, at)));
    head.append(left, chips);
    made.append(head);
    made.addEventListener("toggle", () => {
      if (made.open && made.children.length === 1) made.append(inside(question));
    });
    return made;
  };
  const more = () => {
    const target = byId("question-list");
    for (const at of found.slice(shown, shown + PAGE)) target.append(card(questions[at]));
    shown = Math.min(found.length, shown + PAGE);
    byId("more").style.display = shown < found.length ? "" : "none";
    byId("count").textContent = `${found.length.toLocaleString("en")} of ${questions.length.toLocaleString("en")} questions`;
  };
  const search = () => {
    const words = byId("query").value.toLowerCase().split(/\s+/).filter(Boolean);
    const subject = subjects.value;
    const outcome = outcomes[byId("by-outcome").value];
    found = [];
    questions.forEach((question, at) => {
      if (subject && question[0] !== subject) return;
      if (outcome && !outcome(question[5].filter(Boolean))) return;
      if (words.every((word) => haystacks[at].includes(word))) found.push(at);
    });
    const field = { joules: JOULES, tokens: TOKENS }[byId("by-order").value];
    if (field) found.sort((a, b) => total(questions[b], field) - total(questions[a], field));
    byId("question-list").textContent = "";
    shown = 0;
    more();
  };
  let waiting = 0;
  byId("query").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(search, 120); });
  for (const id of ["by-subject", "by-outcome", "by-order"]) byId(id).addEventListener("change", search);
  byId("more").addEventListener("click", more);
  search();
})();
