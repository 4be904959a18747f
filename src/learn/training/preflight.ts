/** What is wrong with a model, found before a training spends anything on it. */
import { LearndError } from '../../base/errors.ts';
import type { EngineModel } from '../model/engine/model.ts';
import type { Checkpoint } from '../model/types.ts';
import { tensorflow } from '../tensor/backend.ts';

/** @throws LearndError('invalid') naming `model` when the tokenizer can give tokens that the weights do not have */
export function checkVocabulary({ path, tokenizer, config }: Pick<Checkpoint, 'path' | 'tokenizer' | 'config'>): void {
  if (tokenizer.vocabSize <= config.vocabSize) return;
  throw new LearndError(
    'invalid',
    `${path}: the tokenizer knows ${tokenizer.vocabSize} tokens, the weights ${config.vocabSize}: they do not belong together`,
    { field: 'model', hint: "Take the tokenizer that belongs to this model's weights." },
  );
}

/** @throws LearndError('corrupt') naming the weight that holds a number which is none, or infinite */
export function checkWeights(model: EngineModel, path: string): void {
  const tf = tensorflow();
  for (const name of model.parameterNames()) {
    const sum = tf.tidy(() => tf.sum(tf.mul(model.parameter(name), 0)).dataSync()[0]!);
    if (sum !== 0)
      throw new LearndError('corrupt', `${path}: the weight ${name} holds values that are not finite numbers`, {
        hint: 'The file is damaged, or its training went astray; fetch or export it again.',
      });
  }
}
