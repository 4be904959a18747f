/**
 * BANKING77 as features of SmolLM2-135M's first ten blocks, read through llama.cpp as rounds read them, kept in a folder so that
 * heads and their peers see the same numbers: TRAIN and TEST rows, public sentences, sentences made from label names.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openGguf } from '../../src/learn/llama/index.ts';
import { resolveBase } from '../../src/learn/model/base.ts';
import { writeFeatureModel } from '../../src/learn/model/export.ts';
import { openModel } from '../../src/learn/model/open.ts';
import { labelSentences } from '../../src/learn/training/head.ts';
import { PUBLIC_SENTENCES } from '../../src/learn/training/public-text.ts';
import { banking77 } from '../banking77.ts';

export const LAYER = 10;

export interface FeatureSet {
  readonly labels: readonly string[];
  readonly hidden: number;
  readonly train: Part;
  readonly test: Part;
  readonly public: readonly Float32Array[];
  /** [labels][sentences] */
  readonly names: readonly (readonly Float32Array[])[];
}

export interface Part {
  readonly features: readonly Float32Array[];
  readonly labels: readonly number[];
}

/** Cuts the feature model into the folder. */
export async function featureFile(folder: string, cache: string): Promise<string> {
  const path = join(folder, `features-${LAYER}.gguf`);
  if (existsSync(path)) return path;
  mkdirSync(folder, { recursive: true });
  const base = await resolveBase('smollm2-135m', { cacheDir: cache });
  await writeFeatureModel(await openModel(base.path), LAYER, path, 'q8_0');
  return path;
}

/** Reads the features from the folder, or makes them there (some minutes of a core). */
export async function featureSet(folder: string, cache: string, log: (line: string) => void): Promise<FeatureSet> {
  const [train, test] = [banking77('train'), banking77('test')];
  const labels = [...new Set(train.map(row => row.label))].sort();
  const names = labels.map(labelSentences);
  const texts = {
    train: train.map(row => row.text),
    test: test.map(row => row.text),
    public: PUBLIC_SENTENCES,
    names: names.flat(),
  };
  const model = await openGguf(await featureFile(folder, cache));
  const extractor = await model.createFeatureExtractor();
  const { hidden } = extractor;
  const found = {} as Record<keyof typeof texts, Float32Array[]>;
  for (const [name, of] of Object.entries(texts) as [keyof typeof texts, readonly string[]][]) {
    const file = join(folder, `${name}.f32`);
    if (!existsSync(file)) {
      const all = new Float32Array(of.length * hidden);
      for (let at = 0; at < of.length; at += 256) {
        const vectors = await extractor.features(of.slice(at, at + 256));
        vectors.forEach((vector, i) => {
          all.set(vector, (at + i) * hidden);
        });
        log(`features of ${name}: ${Math.min(of.length, at + 256)} of ${of.length}`);
      }
      writeFileSync(file, all);
    }
    const bytes = readFileSync(file);
    const all = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
    found[name] = of.map((_, i) => all.subarray(i * hidden, (i + 1) * hidden));
  }
  await extractor.dispose();
  await model.dispose();
  const place = new Map(labels.map((label, i) => [label, i]));
  const about = {
    labels,
    hidden,
    train: train.map(row => place.get(row.label)!),
    test: test.map(row => place.get(row.label)!),
    sentences: names.map(of => of.length),
  };
  writeFileSync(join(folder, 'about.json'), JSON.stringify(about));
  let at = 0;
  return {
    labels,
    hidden,
    train: { features: found.train, labels: about.train },
    test: { features: found.test, labels: about.test },
    public: found.public,
    names: names.map(of => {
      at += of.length;
      return found.names.slice(at - of.length, at);
    }),
  };
}
