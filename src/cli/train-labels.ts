import { existsSync } from 'node:fs';
import { invalid } from '../base/errors.ts';
import { textLines } from './text-lines.ts';
import type { TrainOptions } from './train-options.ts';

/**
 * The labels that can be predicted: `--labels a,b,c` or a file with one a line; else those in the data, with a warning, because a
 * label that only one person used would give that person away.
 */
export function publicLabels(
  options: Pick<TrainOptions, 'labels' | 'epsilon' | 'file'>,
  used: readonly string[],
): string[] {
  const found = [...new Set(used)].sort();
  if (options.labels === undefined) {
    if (found.length < 2) throw invalid('label', `${options.file} has only one label; a classifier needs two or more`);
    if (options.epsilon !== 'none')
      process.stderr.write(
        `warning: the ${found.length} labels are taken from ${options.file}; which labels there are is not covered by the noise (name them with --labels)\n`,
      );
    return found;
  }
  const named = existsSync(options.labels)
    ? textLines(options.labels)
    : options.labels
        .split(',')
        .map(label => label.trim())
        .filter(label => label !== '');
  const labels = [...new Set(named)];
  if (labels.length < 2) throw invalid('labels', 'name at least two labels');
  const missing = found.find(label => !labels.includes(label));
  if (missing !== undefined)
    throw invalid('labels', `the data has the label "${missing}", which --labels does not name`);
  return labels;
}
