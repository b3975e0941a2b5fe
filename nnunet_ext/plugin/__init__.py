"""How stock nnU-Net finds the trainers: a start-up hook and the folder ``nnUNet_extTrainer`` points at."""
