"use strict";
// Search and sorting; without it the page still shows everything.
(() => {
  const table = document.querySelector(".ranking");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const search = document.getElementById("search");
  const flagged = document.getElementById("only-flagged");
  const shown = document.getElementById("shown");
  const texts = rows.map((row) => row.textContent.toLowerCase());

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    rows.forEach((row, place) => {
      const fits = words.every((word) => texts[place].includes(word));
      row.hidden = !fits || (flagged.checked && !("flagged" in row.dataset));
      count += row.hidden ? 0 : 1;
    });
    shown.textContent = count === rows.length ? "" : `${count} of ${rows.length} records`;
  }

  function value(row, key) {
    if (key === "id") return row.cells[1].textContent;
    return row.dataset[key] === "" ? Infinity : Number(row.dataset[key]);
  }

  function sort(header) {
    const key = header.dataset.sort;
    const first = key === "score" ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = header.getAttribute("aria-sort") === first ? other : first;
    const sign = order === "ascending" ? 1 : -1;
    const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
    [...rows]
      .sort((a, b) => sign * compare(value(a, key), value(b, key)) || compare(value(a, "rank"), value(b, "rank")))
      .forEach((row) => body.append(row));
    for (const th of table.tHead.rows[0].cells) th.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", order);
  }

  for (const header of table.tHead.querySelectorAll("[data-sort]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    header.replaceChildren(button);
    button.addEventListener("click", () => sort(header));
  }
  search.addEventListener("input", filter);
  flagged.addEventListener("change", filter);
  document.querySelector(".tools").hidden = rows.length < 2;
})();
