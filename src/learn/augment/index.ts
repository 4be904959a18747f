/** More training text from the text there is: by words, seeded, with the source of each variant kept. */
export { type AugmentOptions, augment, labelWords, operationNamed, type Variant, variantGroups } from './augment.ts';
export { OPERATIONS, type Operation } from './operations.ts';
export { openWordNet, type Thesaurus } from './thesaurus.ts';
