// Browsers start no worker on a page that was opened from the disk: the search of such a page runs
// in a hidden frame that looks like a worker to both sides.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      const waiting = []
      this.postMessage = data => waiting.push(data)
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      const inside = frame.contentWindow
      inside.document.open()
      inside.document.write("<!doctype html><title>worker</title>")
      inside.document.close()
      inside.postMessage = data => {
        const event = new MessageEvent("message", { data })
        this.dispatchEvent(event)
        this.onmessage?.(event)
      }
      const script = inside.document.createElement("script")
      script.src = new URL(url, document.baseURI).href
      script.onload = () => {
        this.postMessage = data =>
          inside.dispatchEvent(new inside.MessageEvent("message", { data }))
        waiting.forEach(this.postMessage)
      }
      script.onerror = () => this.dispatchEvent(new ErrorEvent("error"))
      inside.document.head.append(script)
      this.terminate = () => frame.remove()
    }
  }
  window.Worker = window.IFrameWorker
}
