/** Entry of the compute worker's process: each job's code is loaded when it is first asked for. */
import { type Job, serveJobs } from './serve.ts';
import type { JobName } from './types.ts';

const jobs: Record<JobName, () => Promise<Job>> = {
  perplexity: async () => (await import('./jobs/perplexity.ts')).perplexity,
  classify: async () => (await import('./jobs/classify.ts')).classify,
  features: async () => (await import('./jobs/features.ts')).features,
  'feature-model': async () => (await import('./jobs/feature-model.ts')).featureModel,
  'train-head': async () => (await import('./jobs/train-head.ts')).trainHead,
  'train-documents': async () => (await import('./jobs/train-documents.ts')).trainDocumentsJob,
  distill: async () => (await import('./jobs/distill.ts')).distillJob,
  'pretrain-scratch': async () => (await import('./jobs/pretrain-scratch.ts')).pretrainScratch,
  'train-feedback': async () => (await import('./jobs/train-feedback.ts')).trainFeedback,
  'measure-constraints': async () => (await import('./jobs/measure-constraints.ts')).measureConstraints,
  merge: async () => (await import('./jobs/merge.ts')).merge,
  prune: async () => (await import('./jobs/prune.ts')).prune,
  calibrate: async () => (await import('./jobs/calibrate.ts')).calibrate,
  quantize: async () => (await import('./jobs/quantize.ts')).quantize,
  speed: async () => (await import('./jobs/speed.ts')).speed,
};

serveJobs(jobs);
