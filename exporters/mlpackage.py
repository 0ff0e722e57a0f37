MODEL="Data/com.apple.CoreML/model.mlmodel"
WEIGHTS="Data/com.apple.CoreML/weights/weight.bin"
