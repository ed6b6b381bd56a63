// What Lacuna's server adds to LSP: the mirror of lsp/protocol.py. Types only, and names.

import type { CodeAction, Command, Range, WorkspaceEdit } from 'vscode-languageserver-protocol';

export type StatusKind = 'normal' | 'busy' | 'warning' | 'error' | 'inactive';

export interface Status {
  kind: StatusKind;
  message?: string;
  model?: string | null;
  device?: string | null;
  lastLatencyMs?: number | null;
  isPaused?: boolean;
}

export interface PreviewEditParams {
  action: CodeAction;
  instruction?: string;
}

export interface PreviewEditResult {
  edit: WorkspaceEdit;
  diff: string;
}

export interface NextEditItem {
  textDocument: { uri: string; version?: number | null };
  range: Range;
  text: string;
  confidence: number;
  command?: Command | null;
}

export interface NextEditResult {
  edits: NextEditItem[];
}

export const STATUS = 'lacuna/status';
export const STATUS_CHANGED = '$/lacuna/status';
export const PAUSE = 'lacuna/pause';
export const RESUME = 'lacuna/resume';
export const UNLOAD = 'lacuna/unload';
export const DID_SHOW = 'lacuna/didShow';
export const PREVIEW_EDIT = 'lacuna/previewEdit';
export const NEXT_EDIT = 'lacuna/nextEdit';
/** Its arguments: the id of the proposal, and the marks that close what it leaves open. */
export const ACCEPT_COMMAND = 'lacuna.accept';

export const FILL_HOLE_KIND = 'refactor.rewrite.lacuna.fillHole';
export const FILL_ALL_KIND = 'refactor.rewrite.lacuna.fillAllHoles';
export const REWRITE_KIND = 'refactor.rewrite.lacuna.rewrite';
export const REPAIR_KIND = 'quickfix.lacuna.repair';
