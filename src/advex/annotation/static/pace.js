// How fast one answers, and how long the rest will take.
const RECENT = 20;
const ENOUGH = 3;
const BREAK = 120000; // whoever looks at one picture for longer does something else

export class Pace {
  constructor() {
    this.times = [];
  }

  // milliseconds: from the picture to the answer, by a clock that nobody sets.
  add(milliseconds) {
    if (milliseconds < BREAK) this.times.push(milliseconds);
    this.times.splice(0, this.times.length - RECENT);
  }

  // In words; "" until there is something to go by.
  text(left) {
    if (this.times.length < ENOUGH) return "";
    const each = this.times.reduce((sum, time) => sum + time, 0) / this.times.length / 1000;
    const shown = each < 9.5 ? each.toFixed(1) : Math.round(each);
    return ` · ${shown} s each${left > 0 ? ` · ${duration(each * left)} left` : ""}`;
  }
}

function duration(seconds) {
  const minutes = seconds / 60;
  if (minutes < 1) return "less than a minute";
  if (minutes < 90) return `about ${Math.round(minutes)} min`;
  return `about ${Math.round(minutes / 60)} h`;
}
