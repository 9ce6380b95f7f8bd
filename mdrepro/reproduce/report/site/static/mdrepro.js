"use strict";

// Figures open enlarged over the page; without this script the link opens the figure itself.
for (const link of document.querySelectorAll("a.md-zoom")) {
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const dialog = document.createElement("dialog");
    dialog.className = "md-dialog";
    const image = document.createElement("img");
    image.src = link.href;
    image.alt = link.querySelector("img").alt;
    dialog.append(image);
    dialog.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  });
}

// The ledger's filter: every word must occur in a row or claim; sections without a match disappear.
for (const input of document.querySelectorAll("input.md-filter")) {
  const items = [...document.querySelectorAll("[data-filter]")].map((item) => [item, item.textContent.toLowerCase()]);
  const sections = [...document.querySelectorAll("section")].filter(
    (part) => part.querySelector("[data-filter]") && !part.querySelector("section"),
  );
  const count = document.querySelector(".md-filter-count");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let matches = 0;
    for (const [item, text] of items) {
      item.hidden = !words.every((word) => text.includes(word));
      matches += item.hidden ? 0 : 1;
    }
    for (const part of sections) part.hidden = !part.querySelector("[data-filter]:not([hidden])");
    for (const table of document.querySelectorAll(".md-ledger")) {
      table.parentElement.hidden = !table.querySelector("[data-filter]:not([hidden])");
    }
    count.textContent = words.length ? `${matches} of ${items.length}` : "";
  });
}

// Tables: in a narrow window each row folds into a block, where each cell says its column; what is still wider says so.
for (const table of document.querySelectorAll(".md-scroll > table")) {
  const heads = [...table.querySelectorAll("thead tr > *")].map((head) =>
    [".md-column", ".md-unit"].map((part) => head.querySelector(part)?.textContent ?? "").join(" ").trim() || head.textContent.trim(),
  );
  for (const row of table.querySelectorAll("tbody tr")) {
    for (const cell of row.querySelectorAll("td")) cell.dataset.label = heads[cell.cellIndex] ?? "";
  }
  table.classList.add("md-folds");
}
const signs = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const wider = target.scrollWidth > target.clientWidth + 1;
    target.classList.toggle("md-wider", wider);
    const sign = target.previousElementSibling;
    if (wider && !sign?.classList.contains("md-scroll-sign")) {
      const text = document.createElement("p");
      text.className = "md-scroll-sign";
      text.textContent = "wider than the page: scroll sideways →";
      target.before(text);
    } else if (!wider && sign?.classList.contains("md-scroll-sign")) {
      sign.remove();
    }
  }
});
for (const box of document.querySelectorAll(".md-scroll, .cell_output")) signs.observe(box);
