/** A head at work and on disk: softmax(W u + b) of the feature standardised by public statistics and scaled to length 1. */
import { LearndError } from '../../base/errors.ts';
import type { WrittenFile } from './formats/atomic-file.ts';
import { SafetensorsFile } from './formats/safetensors-read.ts';
import { writeSafetensorsFile } from './formats/safetensors-write.ts';
import type { Head, HostTensor } from './types.ts';

/** Probabilities of the head's labels, in their order. @param feature [hidden], as the feature model gives it */
export function headScores(head: Head, feature: Float32Array): Float64Array {
  const { mean, scale, weight, bias } = head;
  const hidden = mean.length;
  if (feature.length !== hidden)
    throw new LearndError('internal', `a feature of ${feature.length} numbers for a head of ${hidden}`);
  const x = new Float64Array(hidden);
  let square = 0;
  // A text without tokens has a feature of zeros: only the bias speaks then.
  if (feature.some(value => value !== 0)) {
    for (let i = 0; i < hidden; i++) {
      x[i] = (feature[i]! - mean[i]!) / scale[i]!;
      square += x[i]! * x[i]!;
    }
  }
  const factor = square > 0 ? 1 / Math.sqrt(square) : 0;
  const scores = new Float64Array(bias.length);
  let top = Number.NEGATIVE_INFINITY;
  for (let c = 0; c < scores.length; c++) {
    let dot = 0;
    for (let i = 0; i < hidden; i++) dot += weight[c * hidden + i]! * x[i]!;
    scores[c] = dot * factor + bias[c]!;
    top = Math.max(top, scores[c]!);
  }
  let total = 0;
  for (let c = 0; c < scores.length; c++) {
    scores[c] = Math.exp(scores[c]! - top);
    total += scores[c]!;
  }
  return scores.map(score => score / total);
}

/** weight [labels, hidden], bias [labels], mean and scale [hidden], float32; labels, layer and base stand in the manifest. */
export function saveHead(path: string, head: Head): Promise<WrittenFile> {
  const hidden = head.mean.length;
  const tensors = new Map<string, HostTensor>([
    ['weight', { shape: [head.labels.length, hidden], data: head.weight }],
    ['bias', { shape: [head.labels.length], data: head.bias }],
    ['mean', { shape: [hidden], data: head.mean }],
    ['scale', { shape: [hidden], data: head.scale }],
  ]);
  return writeSafetensorsFile(path, tensors, 'f32');
}

/** @throws LearndError corrupt: a tensor is missing or of another size than labels and features have */
export function readHead(path: string, about: Pick<Head, 'task' | 'labels' | 'features' | 'layer'>): Head {
  const file = new SafetensorsFile(path);
  const mean = file.float('mean');
  const take = (name: string, length: number): Float32Array => {
    const tensor = file.float(name);
    if (tensor.length === length) return tensor;
    throw new LearndError('corrupt', `head file ${path}: ${name} has ${tensor.length} values, not ${length}`);
  };
  const { task, labels, features, layer } = about;
  return {
    task,
    labels: [...labels],
    features,
    layer,
    pooling: 'mean',
    mean,
    scale: take('scale', mean.length),
    weight: take('weight', labels.length * mean.length),
    bias: take('bias', labels.length),
  };
}
