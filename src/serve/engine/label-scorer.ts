/** The monitor scores the live version with the same prompt as serving does, so it lives with the rest of llama.cpp. */
export { LabelScorer } from '../../learn/llama/label-scorer.ts';
