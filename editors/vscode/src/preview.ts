// An edit shown as a diff before it is made; accepted or refused in one keystroke. Knows no server.

import * as vscode from 'vscode';

const SCHEME = 'lacuna-preview';

interface Pending {
  edit: vscode.WorkspaceEdit;
  title: string;
  versions: Map<string, number>;
  /** The addresses of the new texts: what tells its tabs from those of the preview before. */
  shown: Set<string>;
  onAccepted: (() => void) | undefined;
  /** Where the user was. */
  origin: { uri: vscode.Uri; column: vscode.ViewColumn | undefined } | undefined;
}

/** The text of a document as the edits would leave it. */
function edited(document: vscode.TextDocument, edits: vscode.TextEdit[]): string {
  const text = document.getText();
  return [...edits]
    .sort((a, b) => document.offsetAt(b.range.start) - document.offsetAt(a.range.start))
    .reduce(
      (result, edit) => result.slice(0, document.offsetAt(edit.range.start)) + edit.newText + result.slice(document.offsetAt(edit.range.end)),
      text,
    );
}

function changed(): string {
  return vscode.l10n.t('The text has changed since; nothing was done. Ask again.');
}

/** Of a diff of several files the stable API tells nothing but the title. */
function isTabOf(pending: Pending, tab: vscode.Tab): boolean {
  const input: unknown = tab.input;
  if (input instanceof vscode.TabInputTextDiff) {
    return pending.shown.has(input.modified.toString());
  }
  return input instanceof vscode.TabInputText
    ? pending.shown.has(input.uri.toString())
    : input === undefined && tab.label.startsWith(pending.title);
}

function tabsOf(pending: Pending): vscode.Tab[] {
  return vscode.window.tabGroups.all.flatMap((group) => group.tabs).filter((tab) => isTabOf(pending, tab));
}

export class Previews implements vscode.Disposable, vscode.TextDocumentContentProvider {
  private readonly texts = new Map<string, string>();
  private readonly changed = new vscode.EventEmitter<vscode.Uri>();
  private readonly disposables: { dispose(): unknown }[] = [];
  private pending: Pending | undefined;
  private serial = 0;
  private turn: Promise<unknown> = Promise.resolve();

  readonly onDidChange = this.changed.event;

  constructor() {
    this.disposables.push(
      this.changed,
      vscode.workspace.registerTextDocumentContentProvider(SCHEME, this),
      // closing the tab is refusing
      vscode.window.tabGroups.onDidChangeTabs((event) => {
        const { pending } = this;
        if (pending && event.closed.some((tab) => isTabOf(pending, tab)) && tabsOf(pending).length === 0) {
          this.forget();
        }
      }),
    );
  }

  provideTextDocumentContent(uri: vscode.Uri): string {
    return this.texts.get(uri.toString()) ?? '';
  }

  /**
   * Show the edit, made for these versions of the documents. A message when there is nothing to show. One after the
   * other: of two that are asked for in one breath the second takes the place of the first.
   */
  show(...given: Parameters<Previews['showNow']>): Promise<string | undefined> {
    const turn = this.turn.then(() => this.showNow(...given));
    this.turn = turn.catch(() => undefined);
    return turn;
  }

  private async showNow(
    edit: vscode.WorkspaceEdit,
    title: string,
    madeFor: ReadonlyMap<string, number>,
    onAccepted?: () => void,
  ): Promise<string | undefined> {
    await this.refuse();
    const versions = new Map<string, number>();
    const sides: [vscode.Uri, vscode.Uri, vscode.Uri][] = [];
    let first: vscode.Range | undefined;
    for (const [uri, edits] of edit.entries()) {
      const document = await vscode.workspace.openTextDocument(uri);
      const version = madeFor.get(uri.toString());
      if (version !== undefined && version !== document.version) {
        this.texts.clear();
        return changed();
      }
      const text = edited(document, edits);
      if (text === document.getText()) {
        continue;
      }
      const right = uri.with({ scheme: SCHEME, query: JSON.stringify({ serial: ++this.serial }), authority: '' });
      this.texts.set(right.toString(), text);
      // neither an untitled document nor a cell of a notebook has its language from its name
      const proposed = await vscode.workspace.openTextDocument(right);
      await vscode.languages.setTextDocumentLanguage(proposed, document.languageId);
      versions.set(uri.toString(), document.version);
      sides.push([uri, uri, right]);
      first ??= edits[0]?.range;
    }
    const only = sides[0];
    if (!only) {
      return vscode.l10n.t('Nothing would change.');
    }
    const editor = vscode.window.activeTextEditor;
    const origin = editor && { uri: editor.document.uri, column: editor.viewColumn };
    const shown = new Set(sides.map(([, , right]) => right.toString()));
    this.pending = { edit, title, versions, shown, onAccepted, origin };
    // before the diff has the focus, so that the first key already finds it
    await vscode.commands.executeCommand('setContext', 'lacuna.previewOpen', true);
    if (sides.length === 1) {
      const options: vscode.TextDocumentShowOptions = { preview: true, ...(first ? { selection: first } : {}) };
      await vscode.commands.executeCommand('vscode.diff', only[1], only[2], title, options);
    } else {
      await vscode.commands.executeCommand('vscode.changes', title, sides);
    }
    // in Zen Mode a diff opens without it, and its keys would do nothing
    await vscode.commands.executeCommand('workbench.action.focusActiveEditorGroup');
    return undefined;
  }

  async accept(): Promise<void> {
    const pending = this.pending;
    if (!pending) {
      return;
    }
    await this.close(pending);
    for (const [uri, version] of pending.versions) {
      const document = await vscode.workspace.openTextDocument(vscode.Uri.parse(uri));
      if (document.version !== version) {
        void vscode.window.showWarningMessage(changed());
        return;
      }
    }
    if (await vscode.workspace.applyEdit(pending.edit, { isRefactoring: true })) {
      pending.onAccepted?.();
    }
    await this.goBack(pending);
  }

  async refuse(): Promise<void> {
    const pending = this.pending;
    if (pending) {
      await this.close(pending);
      await this.goBack(pending);
    }
  }

  /** Without moving the cursor: the editor has kept it, and the user may be typing there already. */
  private async goBack({ origin }: Pending): Promise<void> {
    const input = vscode.window.tabGroups.activeTabGroup.activeTab?.input;
    // a diff that was asked in is there again by itself, and is not the plain editor of its text
    const isInDiff = input instanceof vscode.TabInputTextDiff && input.modified.toString() === origin?.uri.toString();
    if (origin && !isInDiff) {
      await vscode.window.showTextDocument(origin.uri, origin.column === undefined ? {} : { viewColumn: origin.column });
    }
  }

  private forget(): void {
    this.pending = undefined;
    this.texts.clear();
    void vscode.commands.executeCommand('setContext', 'lacuna.previewOpen', false);
  }

  /** Forgotten first: the end of the tab is then no refusal. */
  private async close(pending: Pending): Promise<void> {
    this.forget();
    await vscode.window.tabGroups.close(tabsOf(pending));
  }

  dispose(): void {
    for (const one of this.disposables) {
      one.dispose();
    }
  }
}
