/** Versions, their files, and which one is the champion. */
export { importVersion } from './import.ts';
export { blobsOf, manifestHash } from './manifest.ts';
export { championStack, type Promotion, promote, promoteIn, rollback, rollbackIn } from './promote.ts';
export {
  createVersion,
  type NewVersion,
  openVersion,
  resolveModelName,
  verifyVersion,
  versionName,
} from './versions.ts';
