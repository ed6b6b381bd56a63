// Text typed while the server starts: the editor asks only at a key, and those keys found no provider. So it is asked for
// once, when the server can answer. Knows no language client.

import * as vscode from 'vscode';
import { isOurs } from './languages';
import type { StatusKind } from './protocol';
import type { StatusItems } from './status';

export class LateAsk implements vscode.Disposable {
  private readonly edited = new Set<string>();
  private readonly watch: vscode.Disposable;
  private isRegistered = false;
  private isReady = false;
  private isOver = false;
  /** The text that our own command asks for, until the request has come. */
  private asked: { uri: string; version: number } | undefined;

  /** Watches from now on. */
  constructor(private readonly status: StatusItems) {
    this.watch = vscode.workspace.onDidChangeTextDocument(({ document, contentChanges }) => {
      if (contentChanges.length > 0 && isOurs(document)) {
        this.edited.add(document.uri.toString());
      }
    });
  }

  /** The editor knows the provider. */
  registered(): void {
    this.isRegistered = true;
    this.askOnce();
  }

  told(kind: StatusKind): void {
    if (kind === 'normal') {
      this.isReady = true;
      this.askOnce();
    }
  }

  /** Something was proposed in this document: nothing is owed there. */
  answered(document: vscode.TextDocument): void {
    this.edited.delete(document.uri.toString());
  }

  /** Whether this request is the one of our own command, which nobody asked for by hand. */
  takes(document: vscode.TextDocument): boolean {
    const isIt = this.asked?.uri === document.uri.toString() && this.asked.version === document.version;
    if (isIt) {
      this.asked = undefined;
    }
    return isIt;
  }

  private askOnce(): void {
    if (this.isOver || !this.isRegistered || !this.isReady) {
      return;
    }
    this.dispose();
    const editor = vscode.window.activeTextEditor;
    if (!editor || !this.isWanted(editor)) {
      return;
    }
    this.asked = { uri: editor.document.uri.toString(), version: editor.document.version };
    const forget = (): void => {
      this.asked = undefined;
    };
    // an older VS Code ignores the arguments, and asks as if by hand
    const options = { providerId: 'lacuna.lacuna:*', explicit: false };
    void vscode.commands.executeCommand('editor.action.inlineSuggest.trigger', options).then(forget, forget);
  }

  private isWanted(editor: vscode.TextEditor): boolean {
    const { document, selections, selection } = editor;
    return (
      this.edited.has(document.uri.toString()) &&
      selections.length === 1 &&
      selection.isEmpty &&
      vscode.window.state.focused &&
      !this.status.isSnoozed() &&
      vscode.workspace.getConfiguration('editor', document).get<boolean>('inlineSuggest.enabled', true)
    );
  }

  dispose(): void {
    this.isOver = true;
    this.watch.dispose();
  }
}
