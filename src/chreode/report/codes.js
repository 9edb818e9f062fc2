/** The codes of one column's latent, one component a level: a map of its own beside the landscape. */
class Codes extends Coloured {
  static async open(page, { colour, xy }, i) {
    const at = document.querySelectorAll("#codes .code")[i], part = (name) => at.querySelector(name);
    const box = { map: part(".points"), over: part(".over"), legend: part(".legend"), tip: part(".tip") };
    const codes = Object.assign(new Codes(page.payload, box), { names: page.names, column: page.column });
    await codes.draw(xy);
    // Cells of one level often lie so close together that a name upon them would hide them all.
    codes.above = true;
    codes.map.pad = 72;
    codes.now = { kind: "categorical", column: page.payload.columns[colour], codes: page.column[colour] };
    codes.recolour();
    dark.addEventListener("change", () => codes.recolour());
    return codes;
  }
}
