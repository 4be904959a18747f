import { invalid } from '../base/errors.ts';
import type { Settings } from '../learn/drift/detector.ts';
import { createDetector } from '../learn/drift/registry.ts';
import { textLines } from './text-lines.ts';

export interface DriftOptions {
  readonly detector: string;
  /** A number a line. */
  readonly file: string;
  /** `name=value` each, river's names. */
  readonly set?: readonly string[];
}

function parsed(text: string): number | string | boolean {
  if (text === 'true' || text === 'false') return text === 'true';
  return text === '' || Number.isNaN(Number(text)) ? text : Number(text);
}

function settingsOf(pairs: readonly string[]): Settings {
  return Object.fromEntries(
    pairs.map(pair => {
      const at = pair.indexOf('=');
      if (at < 1) throw invalid('--set', `takes name=value, not ${JSON.stringify(pair)}`);
      return [pair.slice(0, at).trim().replaceAll('-', '_'), parsed(pair.slice(at + 1).trim())];
    }),
  );
}

/** Feeds the file to a detector; alarms are the indices, from 0, of the values at which it reports drift. */
export async function run(options: DriftOptions): Promise<{ alarms: number[] }> {
  const detector = createDetector(options.detector, settingsOf(options.set ?? []));
  const alarms: number[] = [];
  textLines(options.file).forEach((line, i) => {
    const value = Number(line);
    if (!Number.isFinite(value))
      throw invalid('file', `${options.file}, value ${i + 1} is not a number: ${JSON.stringify(line.slice(0, 40))}`);
    if (detector.update(value).drift) alarms.push(i);
  });
  return { alarms };
}

export const human = (result: { alarms: number[] }): string =>
  result.alarms.length === 0 ? 'no drift' : `drift at ${result.alarms.join(', ')}`;
