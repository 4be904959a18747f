/** Log lines: time, level, where, message, then facts as key=value. Standard error, so that --json keeps standard output. */
export type Level = 'debug' | 'info' | 'warn' | 'error';
const ORDER: Record<Level, number> = { debug: 0, info: 1, warn: 2, error: 3 };

export interface Log {
  debug(message: string, facts?: Record<string, unknown>): void;
  info(message: string, facts?: Record<string, unknown>): void;
  warn(message: string, facts?: Record<string, unknown>): void;
  error(message: string, facts?: Record<string, unknown>): void;
  child(where: string): Log;
}

function show(value: unknown): string {
  if (value instanceof Error) return JSON.stringify(value.message);
  if (typeof value === 'string') return /^[\w@./:+-]+$/.test(value) ? value : JSON.stringify(value);
  if (typeof value === 'number') return Number.isInteger(value) ? String(value) : value.toPrecision(6);
  return JSON.stringify(value) ?? 'undefined';
}

export function createLog(
  options: { level?: Level; where?: string; write?: (line: string) => void; now?: () => number } = {},
): Log {
  const level = options.level ?? 'info';
  const where = options.where ?? 'learnd';
  const write = options.write ?? ((line: string) => process.stderr.write(`${line}\n`));
  const now = options.now ?? Date.now;
  const emit = (at: Level) => (message: string, facts?: Record<string, unknown>) => {
    if (ORDER[at] < ORDER[level]) return;
    const tail = facts
      ? Object.entries(facts)
          .map(([k, v]) => ` ${k}=${show(v)}`)
          .join('')
      : '';
    write(`${new Date(now()).toISOString()} ${at.padEnd(5)} ${where}: ${message}${tail}`);
  };
  return {
    debug: emit('debug'),
    info: emit('info'),
    warn: emit('warn'),
    error: emit('error'),
    child: name => createLog({ ...options, level, where: `${where}.${name}`, write, now }),
  };
}

export const silentLog: Log = createLog({ level: 'error', write: () => undefined });
