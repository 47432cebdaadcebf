"use strict";
// Shows the values under the pointer. Everything else works without it.
for (const figure of document.querySelectorAll("figure.plot")) {
  const data = JSON.parse(figure.querySelector("script").textContent);
  const canvas = figure.querySelector(".canvas");
  const svg = canvas.querySelector("svg");
  const [left, right, top, bottom] = data.box;
  const x = (step) => left + ((step - data.steps[0]) / (data.steps[1] - data.steps[0])) * (right - left);
  const y = (value) => bottom - ((value - data.values[0]) / (data.values[1] - data.values[0])) * (bottom - top);
  const add = (name, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    return svg.appendChild(node);
  };
  const cursor = add("line", { class: "cursor", y1: top, y2: bottom, visibility: "hidden" });
  const dots = data.curves.map((curve) => add("circle", { class: "dot " + curve.colour, r: 4.5, visibility: "hidden" }));
  const area = add("rect", { x: left - 8, y: top, width: right - left + 16, height: bottom - top, fill: "transparent" });
  const tip = canvas.appendChild(document.createElement("div"));
  tip.className = "tip";
  tip.hidden = true;

  const nearest = (points, step) => {
    let low = 0, high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] <= step) low = middle; else high = middle;
    }
    return step - points[low][0] <= points[high][0] - step ? points[low] : points[high];
  };
  const written = (value) => {
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e9)) return value.toExponential(3);
    return value.toLocaleString("en", { maximumSignificantDigits: 5 });
  };
  const line = (curve, point, step) => {
    const row = document.createElement("div");
    row.className = curve.colour;
    const value = document.createElement("span");
    value.textContent = written(point[1]);
    const name = curve.name + (point[0] === step ? "" : " (step " + point[0].toLocaleString("en") + ")");
    row.append(value, document.createElement("i"), name);
    return row;
  };
  const hide = () => {
    tip.hidden = true;
    for (const node of [cursor, ...dots]) node.setAttribute("visibility", "hidden");
  };
  const show = (event) => {
    const frame = svg.getBoundingClientRect();
    const ratio = svg.viewBox.baseVal.width / frame.width;
    const under = (event.clientX - frame.left) * ratio;
    const wanted = data.steps[0] + ((under - left) / (right - left)) * (data.steps[1] - data.steps[0]);
    const step = nearest(data.curves[0].points, wanted)[0];
    const head = document.createElement("b");
    head.textContent = "step " + step.toLocaleString("en");
    const points = data.curves.map((curve) => nearest(curve.points, step));
    tip.replaceChildren(head, ...data.curves.map((curve, idx) => line(curve, points[idx], step)));
    tip.hidden = false;
    points.forEach((point, idx) => {
      dots[idx].setAttribute("cx", x(point[0]));
      dots[idx].setAttribute("cy", y(point[1]));
      dots[idx].setAttribute("visibility", "visible");
    });
    cursor.setAttribute("x1", x(step));
    cursor.setAttribute("x2", x(step));
    cursor.setAttribute("visibility", "visible");
    const place = x(step) / ratio;
    const isRight = place + tip.offsetWidth + 18 > frame.width;
    tip.style.left = (isRight ? Math.max(0, place - tip.offsetWidth - 12) : place + 12) + "px";
    tip.style.top = top / ratio + 4 + "px";
  };
  area.addEventListener("pointermove", show);
  area.addEventListener("pointerdown", show);
  area.addEventListener("pointerleave", hide);
}
