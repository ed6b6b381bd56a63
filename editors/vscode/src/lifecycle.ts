// When a server may start: one runs, at most one start is queued, and crashes are answered with patience.
// Pure: knows neither vscode nor a process, so that it can be read and tested by itself.

export const MAX_RESTARTS = 5;
const WINDOW_MS = 180_000;
const FIRST_WAIT_MS = 250;

export interface Hooks {
  start(): Promise<void>;
  stop(): Promise<void>;
  /** A crash: waitMs until the next try, or undefined when there will be none. */
  onCrash(count: number, waitMs: number | undefined): void;
}

export class Lifecycle {
  private crashes: number[] = [];
  private timer: NodeJS.Timeout | undefined;
  private running: Promise<void> = Promise.resolve();
  private queued: Promise<void> | undefined;
  private isStopping = false;
  private hasEnded = false;

  constructor(private readonly hooks: Hooks) {}

  /** Whether the end of the server now under way was asked for. */
  get isExpectedToEnd(): boolean {
    return this.isStopping;
  }

  /** Whether the start now under way is no longer wanted: another one waits, or none. */
  get isSuperseded(): boolean {
    return this.queued !== undefined || this.hasEnded;
  }

  /** Stop what runs and start again. Calls that come while one waits are the same call. */
  restart(): Promise<void> {
    this.crashes = [];
    return this.enqueue();
  }

  /** The server ended by itself: start it again, later each time, and in the end not at all. */
  crashed(): void {
    if (this.isSuperseded) {
      return;
    }
    const now = Date.now();
    this.crashes = this.crashes.filter((at) => now - at < WINDOW_MS);
    this.crashes.push(now);
    const waitMs = this.crashes.length > MAX_RESTARTS ? undefined : FIRST_WAIT_MS * 2 ** (this.crashes.length - 1);
    this.hooks.onCrash(this.crashes.length, waitMs);
    clearTimeout(this.timer);
    if (waitMs !== undefined) {
      this.timer = setTimeout(() => void this.enqueue(), waitMs);
    }
  }

  /** Stop for good. */
  async end(): Promise<void> {
    clearTimeout(this.timer);
    this.hasEnded = true;
    this.isStopping = true;
    await this.hooks.stop();
  }

  private enqueue(): Promise<void> {
    clearTimeout(this.timer);
    if (this.hasEnded) {
      return Promise.resolve();
    }
    if (!this.queued) {
      const turn = this.running.then(async () => {
        this.queued = undefined;
        this.isStopping = true;
        await this.hooks.stop();
        if (this.hasEnded) {
          return;
        }
        this.isStopping = false;
        await this.hooks.start();
      });
      this.queued = turn;
      this.running = turn.catch(() => undefined);
    }
    return this.queued;
  }
}
