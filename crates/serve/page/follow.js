// Scrolling: the page follows a growing answer until the user scrolls up.

/** Distance from the end that counts as the end, in pixels. */
const NEAR = 4;

export class Follow {
  constructor(view, button) {
    this.view = view;
    this.button = button;
    this.follows = true;
    this.last = 0;
    view.addEventListener("scroll", () => this.scrolled(), { passive: true });
    button.addEventListener("click", () => this.toEnd());
    // The view itself changes size with the keyboard of a phone, or with the message that is written.
    new ResizeObserver(() => this.grew()).observe(view);
  }

  get rest() {
    return this.view.scrollHeight - this.view.clientHeight - this.view.scrollTop;
  }

  scrolled() {
    const top = this.view.scrollTop;
    if (this.rest <= NEAR) this.follows = true;
    else if (top < this.last) this.follows = false;
    this.last = top;
    this.button.hidden = this.follows || this.rest <= NEAR;
  }

  /** After a change of the contents. */
  grew() {
    if (this.follows) this.view.scrollTop = this.view.scrollHeight;
    this.last = this.view.scrollTop;
    this.button.hidden = this.follows || this.rest <= NEAR;
  }

  toEnd() {
    this.follows = true;
    this.grew();
  }
}
