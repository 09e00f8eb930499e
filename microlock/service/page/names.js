// Names may be any text, and must not look like another name.

// Control characters, those without a width, and those that change the direction of writing.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

/** The name with all of its characters visible. */
export function visible(name) {
  return name.replace(UNSEEN, (each) => `\\u${each.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** The name for the middle of a sentence; its direction of writing does not affect that. */
export function inText(name) {
  return `\u2068${visible(name)}\u2069`;
}

/** An element with a name in it, as text; its direction of writing affects nothing else. */
export function named(tag, name, otherwise) {
  const element = document.createElement(tag);
  const inner = document.createElement("bdi");
  inner.className = "name";
  if (name === null) {
    inner.textContent = otherwise;
    inner.classList.add("nobody");
  } else {
    inner.textContent = visible(name);
    if (name.length > 60) inner.title = visible(name);
  }
  element.append(inner);
  return element;
}
