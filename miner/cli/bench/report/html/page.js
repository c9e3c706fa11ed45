"use strict";
(() => {
  const tip = document.getElementById("tip");
  const root = document.documentElement;
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", () => {
      const code = button.parentElement.querySelector("code");
      const chosen = document.createRange();
      chosen.selectNodeContents(code);
      const selection = getSelection();
      selection.removeAllRanges();
      selection.addRange(chosen);
      button.textContent = document.execCommand("copy") ? "Copied" : "Press Ctrl-C";
    });
  }
  for (const svg of document.querySelectorAll("svg[data-chart]")) {
    const { hover, lines } = JSON.parse(svg.dataset.chart);
    const cursor = svg.querySelector(".cursor"), halo = svg.querySelector(".halo");
    const all = lines.flatMap((line) => line.points.map((point) => ({ line, point })));
    const order = all.slice().sort((a, b) => a.point[0] - b.point[0]);
    let at = -1;
    const hide = () => {
      tip.hidden = true;
      for (const mark of [cursor, halo]) mark.setAttribute("visibility", "hidden");
    };
    const show = (found, x, y) => {
      const [px, py] = found.point;
      let words = [`${found.line.name}: ${found.point[2]}`];
      if (hover === "x") {
        words = lines.map((line) => {
          const last = line.points[line.points.length - 1];
          if (last[0] < px - 1) return `${line.name}: over`;
          const now = line.points.filter((point) => point[0] <= px + 0.05).pop() || line.points[0];
          return `${line.name}: ${now[2]}`;
        });
      }
      tip.textContent = words.join("\n");
      tip.hidden = false;
      cursor.setAttribute("x1", px);
      cursor.setAttribute("x2", px);
      cursor.setAttribute("visibility", "visible");
      halo.setAttribute("cx", px);
      halo.setAttribute("cy", py);
      halo.setAttribute("visibility", hover === "x" ? "hidden" : "visible");
      const box = tip.getBoundingClientRect();
      tip.style.left = `${Math.max(6, Math.min(x + 16, innerWidth - box.width - 6))}px`;
      tip.style.top = `${y - box.height - 14 > 6 ? y - box.height - 14 : y + 18}px`;
    };
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const scale = svg.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
      let best = null, least = Infinity;
      for (const each of all) {
        const far = Math.abs(each.point[0] - x) + (hover === "x" ? 0 : Math.abs(each.point[1] - y));
        if (far < least) [best, least] = [each, far];
      }
      if (best) show(best, event.clientX, event.clientY);
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return hide();
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step || !order.length) return;
      event.preventDefault();
      at = Math.max(0, Math.min(order.length - 1, at + step));
      const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
      show(order[at], box.left + order[at].point[0] * scale, box.top + order[at].point[1] * scale);
    });
  }
})();
