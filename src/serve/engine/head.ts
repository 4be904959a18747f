/** The monitor and the rounds classify with the same arithmetic as serving does, so it lives with the rest of llama.cpp. */
export { type LoadedHead, loadHead } from '../../learn/llama/head.ts';
