// The language client and everything that needs it: status, edits, next edit. Loaded when a file of ours is open.

import * as vscode from 'vscode';
import {
  CloseAction,
  type CodeAction,
  ErrorAction,
  type LanguageClientOptions,
  type Middleware,
  RevealOutputChannelOn,
  State,
} from 'vscode-languageclient';
import { LanguageClient } from 'vscode-languageclient/node';
import { closeBehind } from './closing';
import { type Found, type NotFound, findServer, pythonEnvironments } from './find';
import { selector } from './languages';
import { LateAsk } from './late';
import { Lifecycle, MAX_RESTARTS } from './lifecycle';
import * as protocol from './protocol';
import { Previews } from './preview';
import { logLevel, withBlocks } from './settings';
import { type StatusItems } from './status';

/** Settings of the extension: the server knows none of them. */
const OWN_SECTIONS = ['server', 'editor', 'trace'];
/** A server that has not answered `initialize` by then is taken for hung. */
const START_LIMIT_MS = 60_000;
const START_CHECK_MS = 200;
/** What the code actions run: for no palette and no key. */
const PREVIEW_COMMAND = 'lacuna.previewAction';

/** The settings that may stand in the block of a language, as the manifest says. */
function namesInBlocks(context: vscode.ExtensionContext): string[] {
  const { contributes } = context.extension.packageJSON as {
    contributes: { configuration: { properties: Record<string, { scope: string }> }[] };
  };
  return contributes.configuration.flatMap(({ properties }) =>
    Object.entries(properties).flatMap(([name, { scope }]) => (scope === 'language-overridable' ? [name.replace('lacuna.', '')] : [])),
  );
}

/** Which version of each document the edits were made for, where the server told. */
function versionsOf(
  client: LanguageClient,
  documents: { uri: string; version?: number | null }[],
): Map<string, number> {
  return new Map(
    documents.flatMap(({ uri, version }) =>
      typeof version === 'number' ? [[client.protocol2CodeConverter.asUri(uri).toString(), version]] : [],
    ),
  );
}

/** A start that fails, or is given up for another one, is told by the status and by onCrash: once, and not by each try. */
class QuietClient extends LanguageClient {
  override error(message: string, data?: unknown): void {
    super.error(message, data, false);
  }
}

export class Session implements vscode.Disposable {
  private client: LanguageClient | undefined;
  private readonly lifecycle: Lifecycle;
  private readonly previews = new Previews();
  private readonly trace: vscode.LogOutputChannel;
  private readonly namesInBlocks: string[];
  private readonly disposables: { dispose(): unknown }[] = [this.previews];
  private told = new Set<string>();
  private hasAskedToInstall = false;
  private isWatchingPython = false;
  private late: LateAsk | undefined;

  constructor(
    private readonly context: vscode.ExtensionContext,
    private readonly log: vscode.LogOutputChannel,
    private readonly status: StatusItems,
  ) {
    this.trace = vscode.window.createOutputChannel('Lacuna Trace', { log: true });
    this.namesInBlocks = namesInBlocks(context);
    this.lifecycle = new Lifecycle({
      start: () => this.start(),
      stop: () => this.stop(),
      onCrash: (count, waitMs) => this.onCrash(count, waitMs),
    });
    this.disposables.push(
      this.trace,
      vscode.commands.registerCommand(PREVIEW_COMMAND, (action: CodeAction) => this.preview(action)),
      vscode.workspace.onDidChangeConfiguration((event) => {
        if (event.affectsConfiguration('lacuna.server') || event.affectsConfiguration('lacuna.editor.extraLanguages')) {
          void this.restart();
        } else if (event.affectsConfiguration('lacuna')) {
          void this.sendSettings();
        }
      }),
      vscode.workspace.onDidGrantWorkspaceTrust(() => this.lookAgain()),
      vscode.workspace.onDidChangeWorkspaceFolders(() => this.lookAgain()),
    );
  }

  get isRunning(): boolean {
    return this.client?.state === State.Running;
  }

  /** Start, or stop and start again. */
  async restart(): Promise<void> {
    try {
      await this.lifecycle.restart();
    } catch (error) {
      // the client has logged what happened, and onCrash decides what follows
      this.log.error(error instanceof Error ? error : String(error));
    }
  }

  private async start(): Promise<void> {
    const late = new LateAsk(this.status);
    this.late = late;
    const found = await findServer(this.context);
    if (this.lifecycle.isSuperseded) {
      return;
    }
    if ('places' in found) {
      late.dispose();
      this.onMissing(found);
      return;
    }
    this.log.info(`server: ${found.command} (${found.where})`);
    // with the languages of now
    this.status.reveal();
    this.status.update({ kind: 'busy', message: vscode.l10n.t('starting'), isMissing: false });
    const client = this.createClient(found);
    this.client = client;
    // before the start: the first status comes as soon as the server is initialized
    let isTold = false as boolean;
    client.onNotification(protocol.STATUS_CHANGED, (status: protocol.Status) => {
      isTold = true;
      this.status.update(status);
      late.told(status.kind);
    });
    const begun = Date.now();
    const watchdog = setInterval(() => {
      if (this.lifecycle.isSuperseded || Date.now() - begun > START_LIMIT_MS) {
        this.log.warn('the server has not answered `initialize`; killing it');
        client.serverProcess?.kill('SIGKILL');
      }
    }, START_CHECK_MS);
    try {
      await client.start();
      // it answers without an error, too, when the server ended meanwhile
      if (!client.isRunning()) {
        throw new Error('the server ended before it was ready');
      }
    } catch (error) {
      this.log.error(error instanceof Error ? error : String(error));
      await client.dispose().catch(() => undefined);
      if (this.client === client) {
        this.forget();
        this.lifecycle.crashed();
      }
      return;
    } finally {
      clearInterval(watchdog);
    }
    await this.setRunning(true);
    if (!isTold) {
      this.status.update({ kind: 'normal', message: vscode.l10n.t('ready') });
      late.told('normal');
    }
    late.registered();
  }

  private createClient(found: Found): LanguageClient {
    const options: LanguageClientOptions = {
      documentSelector: selector(),
      outputChannel: this.log,
      traceOutputChannel: this.trace,
      revealOutputChannelOn: RevealOutputChannelOn.Never,
      initializationOptions: () => this.forServer(vscode.workspace.getConfiguration().get('lacuna')),
      initializationFailedHandler: () => false,
      errorHandler: {
        error: () => ({ action: ErrorAction.Continue, handled: true }),
        closed: () => {
          if (!this.lifecycle.isExpectedToEnd && this.client === client) {
            this.forget();
            void this.setRunning(false);
            this.lifecycle.crashed();
          }
          return { action: CloseAction.DoNotRestart, handled: true };
        },
      },
      middleware: this.middleware(),
    };
    const executable = { command: found.command, args: ['serve', '--log-level', logLevel()], options: { env: { ...process.env } } };
    const client = new QuietClient('lacuna', 'Lacuna', { run: executable, debug: executable }, options);
    return client;
  }

  /** The settings without the extension's own. */
  private forServer(settings: unknown, scope?: vscode.Uri): unknown {
    if (typeof settings !== 'object' || settings === null) {
      return settings;
    }
    const known = Object.fromEntries(Object.entries(settings).filter(([name]) => !OWN_SECTIONS.includes(name)));
    return withBlocks(known, this.namesInBlocks, scope);
  }

  private middleware(): Middleware {
    return {
      workspace: {
        configuration: async (params, token, next) => {
          const answers: unknown = await next(params, token);
          const scopeOf = (index: number): vscode.Uri | undefined => {
            const uri = params.items[index]?.scopeUri;
            return uri === undefined ? undefined : this.client?.protocol2CodeConverter.asUri(uri);
          };
          return Array.isArray(answers)
            ? answers.map((answer, index) => this.forServer(answer, scopeOf(index)))
            : (answers as never);
        },
      },
      // chosen from the editor's own menu, an edit is shown before it is made, too
      provideCodeActions: async (document, range, context, token, next) => {
        const found = await next(document, range, context, token);
        for (const one of found ?? []) {
          const action = one instanceof vscode.CodeAction && this.client?.code2ProtocolConverter.asCodeActionSync(one);
          if (action) {
            one.command = { title: one.title, command: PREVIEW_COMMAND, arguments: [action] };
          }
        }
        return found;
      },
      resolveCodeAction: (action) => action,
      executeCommand: async (command, args: unknown[], next) => {
        const marks = args[1];
        if (command === protocol.ACCEPT_COMMAND && typeof marks === 'string') {
          await closeBehind(marks);
        }
        return next(command, args) as unknown;
      },
      provideInlineCompletionItems: async (document, position, given, token, next) => {
        const context = this.late?.takes(document)
          ? { ...given, triggerKind: vscode.InlineCompletionTriggerKind.Automatic }
          : given;
        if (this.status.isSnoozed() && context.triggerKind === vscode.InlineCompletionTriggerKind.Automatic) {
          return [];
        }
        const result = await next(document, position, context, token);
        const first = (Array.isArray(result) ? result : result?.items)?.[0];
        if (first) {
          this.late?.answered(document);
        }
        const id: unknown = first?.command?.arguments?.[0];
        // there is no stable event for what is on the screen; what was answered in time is the nearest to it
        if (typeof id === 'string' && !token.isCancellationRequested && !this.told.has(id)) {
          this.told.add(id);
          this.client?.sendNotification(protocol.DID_SHOW, { id }).catch(() => undefined);
        }
        return result;
      },
    };
  }

  private async stop(): Promise<void> {
    const client = this.client;
    this.forget();
    this.told.clear();
    await this.setRunning(false);
    if (client) {
      if (client.state === State.Starting) {
        // it cannot be stopped in order, and may never answer
        client.serverProcess?.kill('SIGKILL');
      }
      try {
        await client.stop(3000);
      } catch (error) {
        this.log.warn(error instanceof Error ? error.message : String(error));
      }
      await client.dispose().catch(() => undefined);
    }
  }

  /** Nothing of a server that is gone stays shown. */
  private forget(): void {
    this.client = undefined;
    this.late?.dispose();
    this.late = undefined;
    this.status.update({ model: null, device: null, lastLatencyMs: null, isPaused: false });
  }

  private async setRunning(isRunning: boolean): Promise<void> {
    await vscode.commands.executeCommand('setContext', 'lacuna.running', isRunning);
  }

  private onCrash(count: number, waitMs: number | undefined): void {
    if (waitMs !== undefined) {
      this.log.warn(`the server ended; starting it again in ${waitMs} ms (${count} of ${MAX_RESTARTS})`);
      this.status.update({ kind: 'warning', message: vscode.l10n.t('the server ended; starting it again') });
      return;
    }
    const message = vscode.l10n.t('The Lacuna server ended {0} times within three minutes.', count);
    this.status.update({ kind: 'error', message });
    const show = vscode.l10n.t('Open Log');
    const again = vscode.l10n.t('Try Again');
    void vscode.window.showErrorMessage(message, show, again).then((choice) => {
      if (choice === show) {
        this.log.show();
      } else if (choice === again) {
        void this.restart();
      }
    });
  }

  private onMissing({ places, mistake }: NotFound): void {
    this.log.warn(`no server found; looked at:\n  ${places.join('\n  ')}`);
    this.status.update({ kind: 'error', message: vscode.l10n.t('server not found'), isMissing: true });
    if (mistake === undefined) {
      void this.watchPython();
    }
    if (this.hasAskedToInstall) {
      return;
    }
    this.hasAskedToInstall = true;
    const install = vscode.l10n.t('Install…');
    const choose = vscode.l10n.t('Set Path');
    const message = mistake ?? vscode.l10n.t('Lacuna: the server was not found.');
    void vscode.window.showWarningMessage(message, ...(mistake === undefined ? [install] : []), choose).then((choice) => {
      if (choice === install) {
        void vscode.commands.executeCommand('lacuna.install');
      } else if (choice === choose) {
        void vscode.commands.executeCommand('workbench.action.openSettings', 'lacuna.server.path');
      }
    });
  }

  /** There may be a server now where none was found. */
  private lookAgain(): void {
    if (!this.client) {
      void this.restart();
    }
  }

  /** Another environment of the Python extension may have the server that was not found. */
  private async watchPython(): Promise<void> {
    if (this.isWatchingPython || !vscode.workspace.isTrusted) {
      return;
    }
    this.isWatchingPython = true;
    const environments = await pythonEnvironments();
    const watch = environments?.onDidChangeActiveEnvironmentPath?.(() => this.lookAgain());
    if (watch) {
      this.disposables.push(watch);
    }
  }

  private async sendSettings(): Promise<void> {
    try {
      // the server asks for what it needs: by folder, which one object could not say
      await this.client?.sendNotification('workspace/didChangeConfiguration', { settings: null });
    } catch (error) {
      this.log.warn(error instanceof Error ? error.message : String(error));
    }
  }

  private async request<R>(method: string, params?: unknown): Promise<R | undefined> {
    if (!this.client || !this.isRunning) {
      void vscode.window.showInformationMessage(vscode.l10n.t('Lacuna: the server is not running.'));
      return undefined;
    }
    try {
      return (await this.client.sendRequest<R | null>(method, params)) ?? undefined;
    } catch (error) {
      void vscode.window.showWarningMessage(`Lacuna: ${error instanceof Error ? error.message : String(error)}`);
      return undefined;
    }
  }

  /** lacuna/pause, resume and unload: each answers with the status after it. */
  async control(method: string): Promise<void> {
    const status = await this.request<protocol.Status>(method);
    if (status) {
      this.status.update(status);
    }
  }

  /** What a command of the user needs; says what is missing. */
  private ready(): { editor: vscode.TextEditor; client: LanguageClient } | undefined {
    const editor = vscode.window.activeTextEditor;
    const client = this.isRunning ? this.client : undefined;
    if (client && editor) {
      return { editor, client };
    }
    const missing = client ? vscode.l10n.t('Lacuna: no file is open.') : vscode.l10n.t('Lacuna: the server is not running.');
    void vscode.window.showInformationMessage(missing);
    return undefined;
  }

  /** Show an edit as a diff, or say why there is none to show. */
  private async show(...given: Parameters<Previews['show']>): Promise<void> {
    const message = await this.previews.show(...given);
    if (message) {
      void vscode.window.showInformationMessage(message);
    }
  }

  acceptEdit(): Promise<void> {
    return this.previews.accept();
  }

  refuseEdit(): Promise<void> {
    return this.previews.refuse();
  }

  /** Ask for the code actions of one kind, then for the instruction where there is one; preview the first. */
  async edit(kind: string, nothing: string, ask?: () => Thenable<string | undefined>): Promise<void> {
    const ready = this.ready();
    if (!ready) {
      return;
    }
    const { editor, client } = ready;
    // a hole or an error is looked for at the cursor, whatever is selected
    const at = kind === protocol.REWRITE_KIND ? editor.selection : new vscode.Range(editor.selection.active, editor.selection.active);
    const actions = await this.request<CodeAction[]>('textDocument/codeAction', {
      textDocument: client.code2ProtocolConverter.asTextDocumentIdentifier(editor.document),
      range: client.code2ProtocolConverter.asRange(at),
      context: { diagnostics: [], only: [kind], triggerKind: 1 },
    });
    const action = actions?.[0];
    if (!action) {
      void vscode.window.showInformationMessage(nothing);
      return;
    }
    const instruction = (await ask?.())?.trim();
    if (!ask || instruction) {
      await this.preview(action, instruction);
    }
  }

  /** Compute the edit of a code action and show it as a diff. */
  private async preview(action: CodeAction, instruction?: string): Promise<void> {
    const work = async (): Promise<void> => {
      const result = await this.request<protocol.PreviewEditResult>(protocol.PREVIEW_EDIT, {
        action,
        ...(instruction === undefined ? {} : { instruction }),
      } satisfies protocol.PreviewEditParams);
      const client = this.client;
      const edit = result && client && (await client.protocol2CodeConverter.asWorkspaceEdit(result.edit));
      if (!edit) {
        // why there is nothing to show is said by the server itself
        return;
      }
      const documents = (result.edit.documentChanges ?? []).flatMap((change) => ('textDocument' in change ? [change.textDocument] : []));
      await this.show(edit, action.title, versionsOf(client, documents));
    };
    await vscode.window.withProgress({ location: vscode.ProgressLocation.Window, title: 'Lacuna' }, work);
  }

  /** What else has to change after the last edit. */
  async nextEdit(): Promise<void> {
    const ready = this.ready();
    if (!ready) {
      return;
    }
    const { editor, client } = ready;
    const converter = client.code2ProtocolConverter;
    const result = await this.request<protocol.NextEditResult>(protocol.NEXT_EDIT, {
      textDocument: { uri: converter.asUri(editor.document.uri), version: editor.document.version },
      position: converter.asPosition(editor.selection.active),
    });
    if (!result) {
      return;
    }
    const edit = new vscode.WorkspaceEdit();
    for (const item of result.edits) {
      const uri = client.protocol2CodeConverter.asUri(item.textDocument.uri);
      edit.replace(uri, client.protocol2CodeConverter.asRange(item.range), item.text);
    }
    if (edit.size === 0) {
      void vscode.window.showInformationMessage(vscode.l10n.t('Lacuna: no further edit to propose.'));
      return;
    }
    const madeFor = versionsOf(client, result.edits.map((item) => item.textDocument));
    await this.show(edit, vscode.l10n.t('Lacuna: next edit'), madeFor, () => {
      for (const command of result.edits.flatMap((item) => item.command ?? [])) {
        void this.request('workspace/executeCommand', { command: command.command, arguments: command.arguments ?? [] });
      }
    });
  }

  async end(): Promise<void> {
    await this.lifecycle.end();
  }

  dispose(): void {
    for (const one of this.disposables) {
      one.dispose();
    }
  }
}
