import { invalid } from '../base/errors.ts';
import type { OpenedModel } from '../learn/model/open.ts';
import { unitExamples } from '../learn/training/examples.ts';
import { feedbackUnits } from '../learn/training/objectives/index.ts';
import { readFeedbackRows, readTrainRows } from './train-data.ts';
import { publicLabels } from './train-labels.ts';
import type { TrainOptions } from './train-options.ts';
import type { TextData } from './train-plan.ts';

/** The file's rows as privacy units of examples, for the objective asked for. @throws LearndError('invalid') */
export function readUnits(options: TrainOptions, checkpoint: OpenedModel, sequence: number): TextData {
  const { file, objective = 'next_token' } = options;
  const nothing = () => invalid('file', `${file} holds nothing to train on: no text of two tokens or more`);
  if (objective === 'next_token') {
    const byUnit = new Map<string, number[][]>();
    for (const { unit, text } of readTrainRows(file, options)) {
      const tokens = checkpoint.tokenizer.encode(text);
      const before = byUnit.get(unit);
      if (before) before.push(tokens);
      else byUnit.set(unit, [tokens]);
    }
    const units = [...byUnit.values()].map(documents => unitExamples(documents, sequence));
    if (units.every(unit => unit.length === 0)) throw nothing();
    return { units };
  }
  const rows = readFeedbackRows(file, objective, options);
  const kind =
    objective === 'classify'
      ? ({
          kind: objective,
          labels: publicLabels(
            options,
            rows.flatMap(row => (row.kind === 'label' ? [row.label] : [])),
          ),
        } as const)
      : ({ kind: objective } as const);
  const found = feedbackUnits(rows, kind, { checkpoint, sequence });
  if (found.units.every(unit => unit.length === 0)) throw nothing();
  return { units: found.units, ...(found.objective && { objective: found.objective }) };
}
