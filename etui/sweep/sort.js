(() => {
  // A click on a heading sorts the settings by it; a second click reverses the order.
  const table = document.getElementById("settings-table");
  const body = table.querySelector("tbody");
  const buttons = [...table.querySelectorAll("thead button")];
  const value = (row, column) => {
    const text = row.children[column].dataset.order;
    return text === "" ? Infinity : Number(text);
  };
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const column = Number(button.dataset.column);
      const falling = button.dataset.sorted === "rising";
      for (const other of buttons) delete other.dataset.sorted;
      button.dataset.sorted = falling ? "falling" : "rising";
      for (const heading of table.querySelectorAll("thead th")) heading.removeAttribute("aria-sort");
      button.parentElement.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const rows = [...body.children];
      rows.sort((a, b) => {
        const [one, other] = [value(a, column), value(b, column)];
        if (one === other) return 0;
        // A missing figure is last in both orders.
        if (!Number.isFinite(one)) return 1;
        if (!Number.isFinite(other)) return -1;
        return falling ? other - one : one - other;
      });
      body.append(...rows);
    });
  }
})();
