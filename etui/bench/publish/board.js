(() => {
  // A click on a heading sorts the rows of each group by it; a second click reverses the order.
  const value = (row, column) => row.children[column].dataset.order;
  for (const table of document.querySelectorAll("table.ranks")) {
    const buttons = [...table.querySelectorAll("thead button")];
    buttons.forEach((button, column) => {
      const isText = "text" in button.dataset;
      button.addEventListener("click", () => {
        const falling = button.dataset.sorted === "ascending";
        for (const other of buttons) {
          delete other.dataset.sorted;
          other.parentElement.removeAttribute("aria-sort");
        }
        const order = falling ? "descending" : "ascending";
        button.dataset.sorted = order;
        button.parentElement.setAttribute("aria-sort", order);
        for (const body of table.tBodies) {
          const rows = [...body.querySelectorAll("tr.row-of")];
          rows.sort((a, b) => {
            const [one, other] = [value(a, column), value(b, column)];
            // A missing figure is last in both orders.
            if (one === "" || other === "") return (one === "") - (other === "");
            const rising = isText ? one.localeCompare(other) : Number(one) - Number(other);
            return falling ? -rising : rising;
          });
          body.append(...rows);
        }
      });
    });
  }
})();
(() => {
  const form = document.getElementById("filters");
  const selects = [...form.querySelectorAll("select")];
  const rows = [...document.querySelectorAll("tr.row-of")];
  const matches = (row) =>
    selects.every(
      (select) =>
        !select.value || row.dataset[select.dataset.filter].split("\n").includes(select.value),
    );
  const update = () => {
    let count = 0;
    for (const row of rows) {
      row.hidden = !matches(row);
      count += row.hidden ? 0 : 1;
    }
    for (const body of document.querySelectorAll("table.ranks tbody")) {
      body.hidden = ![...body.querySelectorAll("tr.row-of")].some((row) => !row.hidden);
    }
    for (const section of document.querySelectorAll("section.board")) {
      section.hidden = ![...section.querySelectorAll("tbody")].some((body) => !body.hidden);
    }
    document.getElementById("nothing").hidden = count > 0;
    document.getElementById("shown").textContent =
      count === rows.length ? "" : `${count} of ${rows.length} systems`;
  };
  form.hidden = false;
  form.addEventListener("change", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(update));
  update();
})();
